"""The log: standard output and standard error of every instance. No manifest names it."""

from __future__ import annotations

from typing import Final

from fildes.capabilities.kind import Kind

KIND: Final = Kind(
    name="log",
    driver="log",
    summary="lines for `fildes logs`",
    revocation="the log driver closes its end: the next write fails with EPIPE",
    at_start=True,
    internal=True,
)
