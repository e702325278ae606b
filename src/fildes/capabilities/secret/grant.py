"""`[grants.NAME] kind = "secret"`: a value that an operator stored, by name; the program reads it as an fd."""

from __future__ import annotations

from typing import Final

from fildes.capabilities.kind import Kind

KIND: Final = Kind(
    name="secret",
    driver="catalogue",
    summary="a value kept apart from the program's files",
    revocation="the instance ends, and the value must be changed where it is used: what was read is known",
    options={"secret": (str, False, "the secret's name; the grant's own when left out")},
    at_start=True,
)
