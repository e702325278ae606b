"""A log to hand out: a pipe. The driver keeps the read end; the write end is a program's standard output."""

from __future__ import annotations

from fildes.kernel.fds import Fd
from fildes.kernel.pipes import pipe

SIZE = 64 * 1024  # bytes that a program may be ahead of the driver, and what one `tee` copies at most


def open_log() -> tuple[Fd, Fd]:
    """(read end, write end)"""
    return pipe(SIZE)
