"""`[grants.random]`: the kernel's random numbers."""

from __future__ import annotations

from typing import Final

from fildes.capabilities.kind import Kind

KIND: Final = Kind(
    name="random",
    driver="shared",
    summary="random numbers of the kernel, fit for keys",
    revocation="the instance ends: an open random device stays readable",
    at_start=True,
)
