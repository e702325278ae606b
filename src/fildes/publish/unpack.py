"""An uploaded tar → a tree in a scratch directory, believing nothing of it.

tarfile parses the headers; everything it says is checked here, and every file is made through directory
descriptors with O_NOFOLLOW, so that no name can lead out however it is composed. The archive is read once,
front to back: it may change under our hands, or be a pipe.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Final

from fildes.publish.names import Rejected, follow, shown, split

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1 << 20
_MAX_HEADERS: Final = 1 << 20  # bytes of extended headers of one member
_EARLIEST: Final = 315532800  # 1980-01-01, the first day that zip files and their readers know
_LATEST: Final = (1 << 32) - 1

_KINDS: Final = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Caps:
    """What one upload may hold."""

    files: int = 50_000  # members of any kind
    bytes: int = 512 << 20  # of content, unpacked
    file: int = 256 << 20  # of one file


@dataclass
class Tree:
    """What was unpacked: regular files by path with (mode, mtime in s, size in bytes), symlinks by path."""

    files: dict[Parts, tuple[int, int, int]] = field(default_factory=dict)
    links: dict[Parts, str] = field(default_factory=dict)
    directories: set[Parts] = field(default_factory=lambda: {()})
    size: int = 0


def unpack(archive: IO[bytes], into: int, caps: Caps | None = None) -> Tree:
    """Make the members of the tar `archive` beneath the (borrowed) directory descriptor `into`.

    Raises Rejected, naming the member. On an error what was made so far stays: the caller sweeps its scratch.
    """
    walker = _Walker(into, caps or Caps())
    try:
        with tarfile.open(fileobj=archive, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                walker.add(tar, member)
    except (tarfile.TarError, EOFError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Rejected(f"the upload is not a whole tar archive ({error}); publish again") from error
    walker.check_links()
    return walker.tree


class _Walker:
    def __init__(self, root: int, caps: Caps) -> None:
        self._root = root
        self._caps = caps
        self._count = 0
        self.tree = Tree()

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._count += 1
        if self._count > self._caps.files:
            raise Rejected(f"more than {self._caps.files} files; leave out what the program does not need")
        if sum(len(key) + len(value) for key, value in member.pax_headers.items()) > _MAX_HEADERS:
            raise Rejected(f"{shown(member.name[:80])}: extended headers of more than {_MAX_HEADERS} bytes")
        parts = split(member.name)
        name = shown("/".join(parts))
        kind = _KINDS.get(member.type)
        if kind is None and member.issparse():
            kind = "a sparse file"
        if kind is not None:
            raise Rejected(f"{name}: {kind} can't be published; remove it from the folder")
        if member.isdir():
            self._close(self._directory(parts, name))
        elif not parts:
            raise Rejected("a file without a name in the upload; publish again")
        elif member.isreg():
            self._file(tar, member, parts, name)
        elif member.issym():
            self._place(parts, name)
            self.tree.links[parts] = member.linkname
        elif member.islnk():
            self._copy(member, parts, name)
        else:
            raise Rejected(f"{name}: an entry of unknown kind {member.type!r}; remove it from the folder")

    def check_links(self) -> None:
        """Only now are all links known: each must end at a file or folder of the upload."""
        for where, target in self.tree.links.items():
            end = follow(where, target, self.tree.links)
            if end not in self.tree.files and end not in self.tree.directories:
                raise Rejected(
                    f"{shown('/'.join(where))}: a symlink to {shown(target)}, which is not in the folder; remove it"
                )
            with self._parent(where) as directory:
                os.symlink(target, where[-1], dir_fd=directory)

    # — making things —

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: Parts, name: str) -> None:
        self._count_bytes(member.size, name)
        source = tar.extractfile(member)
        if source is None:
            raise Rejected(f"{name}: no content in the upload; publish again")
        mode = 0o755 if member.mode & 0o111 else 0o644
        mtime = int(min(max(member.mtime, _EARLIEST), _LATEST))
        with source:
            self._write(source, member.size, parts, name, (mode, mtime))
        self.tree.files[parts] = (mode, mtime, member.size)

    def _copy(self, member: tarfile.TarInfo, parts: Parts, name: str) -> None:
        # A hard link names an earlier member of the archive; a copy of that is what it means here.
        target = split(member.linkname)
        known = self.tree.files.get(target)
        if known is None:
            raise Rejected(f"{name}: a hard link to {shown(member.linkname)}, which is not in the upload; copy it")
        mode, mtime, size = known
        self._count_bytes(size, name)
        with self._parent(target) as directory:
            source = os.open(target[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        with open(source, "rb") as content:
            self._write(content, size, parts, name, (mode, mtime))
        self.tree.files[parts] = (mode, mtime, size)

    def _count_bytes(self, size: int, name: str) -> None:
        if size > self._caps.file:
            raise Rejected(f"{name}: {size} bytes; a file may have {self._caps.file} at most")
        self.tree.size += size
        if self.tree.size > self._caps.bytes:
            limit = self._caps.bytes >> 20
            raise Rejected(f"{name}: with it the folder has more than {limit} MiB; leave out what is not needed")

    def _write(self, source: IO[bytes], size: int, parts: Parts, name: str, attributes: tuple[int, int]) -> None:
        mode, mtime = attributes
        self._place(parts, name)
        with self._parent(parts) as directory:
            number = os.open(parts[-1], _CREATE, mode, dir_fd=directory)
        with open(number, "wb", buffering=0) as file:
            left = size
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise Rejected(f"{name}: the upload ends in the middle of this file; publish again")
                _write_all(file, chunk)
                left -= len(chunk)
            os.fchmod(number, mode)  # the umask took bits away
            os.utime(number, (mtime, mtime))

    def _place(self, parts: Parts, name: str) -> None:
        """Raise unless `parts` is free, and make the folders above it."""
        if parts in self.tree.files or parts in self.tree.links or parts in self.tree.directories:
            raise Rejected(f"{name}: this path is twice in the upload; publish again")
        self._close(self._directory(parts[:-1], name))

    @contextmanager
    def _parent(self, parts: Parts) -> Iterator[int]:
        directory = self._directory(parts[:-1], "/".join(parts))
        try:
            yield directory
        finally:
            self._close(directory)

    def _directory(self, parts: Parts, name: str) -> int:
        """A descriptor of the folder `parts`, made where it is missing; one step at a time, no link followed."""
        here = self._root
        for depth, part in enumerate(parts, 1):
            try:
                if parts[:depth] not in self.tree.directories:
                    if parts[:depth] in self.tree.files or parts[:depth] in self.tree.links:
                        raise Rejected(f"{name}: a file or symlink of the upload is in the place of its folder")
                    os.mkdir(part, 0o755, dir_fd=here)
                    self.tree.directories.add(parts[:depth])
                below = os.open(part, _OPEN_DIRECTORY, dir_fd=here)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST):
                    raise Rejected(f"{name}: something else is in the place of its folder") from error
                raise
            finally:
                self._close(here)
            here = below
        return here

    def _close(self, directory: int) -> None:
        if directory != self._root:
            os.close(directory)


def _write_all(file: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]
