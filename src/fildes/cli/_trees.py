"""The trees that services fill, as `fildes backup` finds them: held by descriptors, whatever their names become.

One that is a file system in a file is mounted once more: the same file system that the service's processes have, to be
read only, in nobody's namespace. The mount and its loop device are gone when the last descriptor is, whoever is killed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from fildes.capabilities.files.driver import FOLDER, IMAGE
from fildes.cli._shared import Trouble
from fildes.kernel import mounts
from fildes.kernel.fds import Fd
from fildes.sandbox import tree

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ATTRIBUTES: Final = (
    mounts.MOUNT_ATTR_RDONLY
    | mounts.MOUNT_ATTR_NOSUID
    | mounts.MOUNT_ATTR_NODEV
    | mounts.MOUNT_ATTR_NOEXEC
    | mounts.MOUNT_ATTR_NOATIME
)


class Shelf(NamedTuple):
    """The directory of a grant; `names` of what lies in it."""

    owner: str
    service: str
    grant: str
    directory: int
    names: frozenset[str]

    @property
    def path(self) -> str:
        return f"{self.owner}/{self.service}/{self.grant}"


def shelves(data: Path) -> Iterator[Shelf]:
    """Every directory OWNER/SERVICE/GRANT below `data`, by name; each is open until the next is asked for."""
    with contextlib.ExitStack() as stack:
        try:
            top = stack.enter_context(Fd.open(str(data), _OPEN))
        except FileNotFoundError:  # it never kept anything
            return
        for owner, below in _folders(top.fileno()):
            for service, inner in _folders(below):
                for grant, folder in _folders(inner):
                    yield Shelf(owner, service, grant, folder, frozenset(os.listdir(folder)))


def _folders(above: int) -> Iterator[tuple[str, int]]:
    for name in sorted(os.listdir(above)):
        try:
            folder = Fd.open(name, _OPEN, dir_fd=above)
        except (FileNotFoundError, NotADirectoryError):  # removed in the meantime, or nothing of ours
            continue
        with folder:
            yield name, folder.fileno()


@contextmanager
def opened(shelf: Shelf) -> Iterator[tuple[int, int] | None]:
    """(the tree's top, the bytes that it may hold or 0 where nobody counts); None if there is no tree.

    Raises Trouble, OSError.
    """
    with contextlib.ExitStack() as stack:
        if FOLDER in shelf.names:
            top = stack.enter_context(Fd.open(FOLDER, _OPEN, dir_fd=shelf.directory))
            yield top.fileno(), 0
            return
        if IMAGE not in shelf.names:
            yield None
            return
        image = stack.enter_context(Fd.open(IMAGE, os.O_RDWR | os.O_NOFOLLOW, dir_fd=shelf.directory))
        if not tree.made(image.fileno()):  # nothing was written into it yet
            yield None
            return
        try:
            mount = stack.enter_context(tree.mounted(image.fileno(), shelf.directory, _ATTRIBUTES))
        except PermissionError as error:
            what = f"{shelf.grant} of {shelf.service} is a file system in a file"
            raise Trouble(f"{what}, which only root can mount: take the backup as root") from error
        top = stack.enter_context(Fd.open(".", _OPEN, dir_fd=mount.fileno()))
        yield top.fileno(), os.fstat(image.fileno()).st_size
