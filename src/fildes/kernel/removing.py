"""Removing a folder with all that is in it, whoever filled it: however deep, and in folders that forbid to be entered.

shutil.rmtree holds a descriptor for every folder on the way down, and on older Pythons calls itself for each: what a
program makes deep enough stays for ever. Here folders are moved up before what is in them is looked at.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from fildes.kernel.fds import Fd

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove_folder(name: str, above: int) -> None:
    """`name` in the folder `above` (borrowed). No link is followed; killed in the middle it can be called again.

    Raises OSError; EBUSY where something is mounted below.
    """
    with _opened(name, above) as top:
        while names := os.listdir(top.fileno()):
            for entry in names:
                if _is_removed(entry, top.fileno()):
                    continue
                with _opened(entry, top.fileno()) as folder:
                    for inner in os.listdir(folder.fileno()):
                        if _is_removed(inner, folder.fileno()):
                            continue
                        _move(inner, folder.fileno(), top.fileno())
                os.rmdir(entry, dir_fd=top.fileno())
    os.rmdir(name, dir_fd=above)


def _is_removed(name: str, folder: int) -> bool:
    """Whether it was no folder with something in it; then it is gone."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    except FileNotFoundError:
        pass
    return True


def _move(name: str, folder: int, top: int) -> None:
    # Whoever filled the folder can't know the new name.
    spare = f".{os.urandom(16).hex()}"
    try:
        os.rename(name, spare, src_dir_fd=folder, dst_dir_fd=top)
    except PermissionError:  # moving a folder changes what ".." in it is
        _permit(name, folder)
        os.rename(name, spare, src_dir_fd=folder, dst_dir_fd=top)


def _opened(name: str, above: int) -> Fd:
    try:
        fd = Fd.open(name, _OPEN, dir_fd=above)
    except PermissionError:
        _permit(name, above)
        fd = Fd.open(name, _OPEN, dir_fd=above)
    try:
        if os.fstat(fd.fileno()).st_dev != os.fstat(above).st_dev:
            raise OSError(errno.EBUSY, "something is mounted there: unmount it first", name)
        if os.fstat(fd.fileno()).st_mode & 0o700 != 0o700:
            os.fchmod(fd.fileno(), 0o700)
    except BaseException:
        fd.close()
        raise
    return fd


def _permit(name: str, above: int) -> None:
    """A folder's owner may always change who may enter it."""
    with Fd.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above) as found:
        os.chmod(f"/proc/self/fd/{found.fileno()}", 0o700)
