"""Databases to hand out: the files of one grant, each by a description of its holder's own.

A shared description has a shared position, through which two instances would disturb each other. O_NOFOLLOW stays
visible on the description, and tells the trap that it is one of these (shim/kept.c).
"""

from __future__ import annotations

import os
from typing import Final

from fildes.capabilities.sqlite.grant import SUFFIXES
from fildes.kernel.fds import Fd, close_all

FILE: Final = "db"
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC


def open_database(directory: int, *, writable: bool) -> list[Fd]:
    """The database, its journal, its log and the index of that, made if need be; `directory` is borrowed."""
    opened: list[Fd] = []
    try:
        for suffix in SUFFIXES:
            name = FILE + suffix
            if writable:
                opened.append(Fd.open(name, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600, dir_fd=directory))
            else:
                opened.append(Fd.open(name, os.O_RDONLY | _FLAGS, dir_fd=directory))
    except BaseException:
        close_all(opened)
        raise
    return opened
