"""Trees that last: a file with a file system in it, or where that can't be mounted a plain folder."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from fildes.kernel.fds import Fd

IMAGE: Final = "image"
FOLDER: Final = "tree"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def open_tree(directory: int, quota: int, *, image: bool) -> tuple[Fd, int]:
    """(the image, its size in bytes) or (the folder, 0), made if neither is there; `directory` is borrowed.

    `image` says which one to make. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        return Fd.open(FOLDER, _FOLDER, dir_fd=directory), 0
    if not image and IMAGE not in os.listdir(directory):
        os.mkdir(FOLDER, 0o700, dir_fd=directory)
        os.fsync(directory)
        return Fd.open(FOLDER, _FOLDER, dir_fd=directory), 0
    if not image:
        raise OSError(
            "it was made as a file system in a file, which can't be mounted now: run the node as root, as before"
        )
    file = Fd.open(IMAGE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    try:
        if not os.fstat(file.fileno()).st_size:
            os.ftruncate(file.fileno(), quota)
            os.fsync(file.fileno())
            os.fsync(directory)
        return file, os.fstat(file.fileno()).st_size
    except BaseException:
        file.close()
        raise
