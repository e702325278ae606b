"""The directory of what lasts: a directory for each grant, OWNER/SERVICE/GRANT below the one that is held.

Names come from messages of other daemons, which have them from manifests; they are looked at again here, for they
become paths. What is made is on the disk before anybody is given it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from fildes.capabilities.files.driver import FOLDER
from fildes.capabilities.sqlite.driver import FILE
from fildes.kernel.fds import Fd
from fildes.kernel.removing import remove_folder

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,63}")
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_DEEPEST: Final = 100  # folders within folders whose sizes are counted
MOST: Final = 1024  # grants of one owner whose files are kept, those of removed services too


class BadName(ValueError):
    """A name that can't be a directory's."""


class Full(OSError):
    """The owner has more than enough."""


class Shelf(NamedTuple):
    """What lies there. `size` in bytes."""

    grant: str
    kind: str
    size: int


class Shelves:
    """Owns `directory`."""

    def __init__(self, directory: Fd) -> None:
        self._directory = directory

    def open(self, owner: str, service: str, grant: str) -> Fd:
        """The directory of a grant. Raises FileNotFoundError, BadName."""
        path = "/".join(_checked(name) for name in (owner, service, grant))
        return Fd.open(path, _OPEN, dir_fd=self._directory.fileno())

    def make(self, owner: str, service: str, grant: str) -> Fd:
        """The same, made if need be. Raises BadName, Full, OSError."""
        with contextlib.suppress(FileNotFoundError):
            return self.open(owner, service, grant)
        if self._count(owner) >= MOST:
            raise Full(f"{owner} has {MOST} databases and trees; remove one: fildes rm NAME --data")
        above = Fd.open(".", _OPEN, dir_fd=self._directory.fileno())
        for name in (owner, service, grant):
            with above:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=above.fileno())
                    os.fsync(above.fileno())
                below = Fd.open(name, _OPEN, dir_fd=above.fileno())
            above = below
        return above

    def look(self, owner: str, service: str) -> list[Shelf]:
        """By name; nothing where there is no such service."""
        found = []
        for grant in self._names(_checked(owner), _checked(service)):
            with self.open(owner, service, grant) as directory:
                sizes = {name: _size(name, directory.fileno()) for name in os.listdir(directory.fileno())}
                if FOLDER in sizes:
                    sizes[FOLDER] += _within(FOLDER, directory.fileno(), _DEEPEST)
            found.append(Shelf(grant, "sqlite" if FILE in sizes else "files", sum(sizes.values())))
        return found

    def all(self, owner: str | None, service: str | None) -> Iterator[tuple[str, str, list[Shelf]]]:
        """(owner, service, what lies there) of all who keep something; of one owner, of one service, unless None."""
        for an_owner in self._names(".") if owner is None else [_checked(owner)]:
            for a_service in self._names(an_owner) if service is None else [_checked(service)]:
                if shelves := self.look(an_owner, a_service):
                    yield an_owner, a_service, shelves

    def remove(self, owner: str, service: str) -> int:
        """Everything of a service; how many grants that were. Who has it open goes on with what nobody else sees."""
        count = len(self._names(_checked(owner), _checked(service)))
        with contextlib.suppress(FileNotFoundError), Fd.open(owner, _OPEN, dir_fd=self._directory.fileno()) as above:
            remove_folder(service, above.fileno())
            os.fsync(above.fileno())
        return count

    def _count(self, owner: str) -> int:
        return sum(len(self._names(owner, service)) for service in self._names(owner))

    def _names(self, *path: str) -> list[str]:
        try:
            with Fd.open("/".join(path), _OPEN, dir_fd=self._directory.fileno()) as directory:
                return sorted(os.listdir(directory.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            return []


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadName(f"{name[:64]!r} is no name of an owner, a service or a grant")
    return name


def _within(name: str, above: int, deepest: int) -> int:
    """What is in a folder. A program fills it while it is read: what goes meanwhile counts nothing."""
    total = 0
    with (
        contextlib.suppress(OSError),
        Fd.open(name, _OPEN, dir_fd=above) as folder,
        os.scandir(folder.fileno()) as found,
    ):
        for entry in found:
            with contextlib.suppress(OSError):
                total += _size(entry.name, folder.fileno())
                if deepest and entry.is_dir(follow_symlinks=False):
                    total += _within(entry.name, folder.fileno(), deepest - 1)
    return total


def _size(name: str, directory: int) -> int:
    """What it takes on the disk: files may have holes."""
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_blocks * 512
