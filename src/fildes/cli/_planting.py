"""The trees of a backup put where the storage driver looks for them: as file systems in files where root can mount
them, as plain folders for anybody else, whichever they were."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from fildes.capabilities.files.driver import FOLDER, IMAGE
from fildes.capabilities.files.grant import LEAST, MOST, QUOTA
from fildes.cli._shared import Trouble
from fildes.cli._tree_writing import DAMAGE, Unpacker, quota_of
from fildes.kernel import loops, mounts
from fildes.kernel.fds import Fd
from fildes.kernel.libc import syscall
from fildes.sandbox import tree

PACKED: Final = "tree.tar"
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ATTRIBUTES: Final = (
    mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC | mounts.MOUNT_ATTR_NOATIME
)


def plant(data: Path, uids: Mapping[tuple[str, str], int] | None) -> list[str]:
    """Unpack every OWNER/SERVICE/GRANT/tree.tar below `data`, which holds what a backup held and nobody else touches.

    `uids`: whose a (owner, service)'s files are; None: all are ours. What is to be said of it. Raises Trouble, OSError.
    """
    said = []
    for packed in sorted(data.glob(f"*/*/*/{PACKED}")):
        owner, service, grant = packed.parts[-4:-1]
        try:
            with Fd.open(str(packed.parent), _OPEN) as directory, open(packed, "rb") as file:
                if uids is None:
                    _folder(directory.fileno(), file)
                else:
                    _usable(service)
                    larger = _image(directory.fileno(), file, uids.get((owner, service), 0))
                    if larger:
                        said.append(f"{service}: {grant} holds more than its quota; it may hold {larger:,} bytes now")
        except DAMAGE as error:
            raise Trouble(f"{grant} of {service} is no tree that can be restored: {error}") from error
        packed.unlink()
    return said


def _usable(service: str) -> None:
    if tree.maker() is None or not loops.usable():
        raise Trouble(
            f"{service} keeps a tree of files, which takes loop devices and mke2fs (e2fsprogs) when root restores it; "
            "this machine lacks one of them: fildes doctor"
        )


def _folder(directory: int, file: IO[bytes]) -> None:
    quota_of(file)
    os.mkdir(FOLDER, 0o700, dir_fd=directory)
    with Fd.open(FOLDER, _OPEN, dir_fd=directory) as top:
        Unpacker(file, top.fileno(), None).run()
        syscall("syncfs", top.fileno())


def _image(directory: int, file: IO[bytes], owner: int) -> int:
    """0, or its size if the quota was not enough: a folder, whose quota nobody keeps, may have held more."""
    size = min(max(quota_of(file) or QUOTA, LEAST), MOST)
    try:
        _filled(directory, file, owner, size)
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    os.unlink(IMAGE, dir_fd=directory)
    size = min(max(2 * size, 4 * os.fstat(file.fileno()).st_size), MOST)
    _filled(directory, file, owner, size)
    return size


def _filled(directory: int, file: IO[bytes], owner: int, size: int) -> None:
    with Fd.open(IMAGE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory) as image:
        os.ftruncate(image.fileno(), size)
        with (
            tree.mounted(image.fileno(), directory, _ATTRIBUTES) as mount,
            Fd.open(".", _OPEN, dir_fd=mount.fileno()) as top,
        ):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir("lost+found", dir_fd=top.fileno())
            Unpacker(file, top.fileno(), owner).run()
            syscall("syncfs", top.fileno())
        os.fsync(image.fileno())
