"""A megabyte kept back, so that a service can still be removed when the disk is full: deleting needs room too."""

from __future__ import annotations

import os
from typing import Final

from fildes.kernel.fds import Fd

SIZE: Final = 1 << 20
_NAME: Final = "spare"


def keep(state: int) -> None:
    """Have it, if there is room for it."""
    try:
        with Fd.open(_NAME, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=state) as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
    except OSError:
        spend(state)  # a part of it would be room that nobody has


def spend(state: int) -> None:
    """Give it up; `keep` it again once what needed it is done."""
    try:
        os.unlink(_NAME, dir_fd=state)
    except OSError:
        return
