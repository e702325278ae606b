"""Pipes: tee(2), which Python has no function for, and their size (fcntl(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.libc import syscall

SPLICE_F_NONBLOCK: Final = 0x02


def pipe(size: int | None = None) -> tuple[Fd, Fd]:
    """(read end, write end), both blocking, of `size` bytes where the user may have that much (pipe(7))."""
    reader, writer = (Fd(number) for number in os.pipe2(os.O_CLOEXEC))
    if size is not None:
        # Refused above /proc/sys/fs/pipe-max-size, or when this user's pages are used up: then the default will do.
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, size)
    return reader, writer


def tee(source: int, target: int, size: int) -> int:
    """Copy up to `size` bytes between pipes and leave them in `source`. Returns how many; 0: end of file.

    Raises BlockingIOError when `source` has nothing or `target` no room.
    """
    return syscall("tee", source, target, size, SPLICE_F_NONBLOCK)
