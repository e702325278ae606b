"""An uploaded tar → an index, and one file with the contents; nothing of it is believed.

tarfile parses the headers; everything it says is checked here. The archive is read once, front to back: it may change
under our hands, or be a pipe.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import IO, Final

from fildes.publish.names import Rejected, shown, split
from fildes.publish.tree import File, Parts, Tree, expand

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


@dataclass(frozen=True)
class Caps:
    """What one upload may hold."""

    files: int = 50_000  # members of any kind
    bytes: int = 512 << 20  # of content, unpacked
    file: int = 256 << 20  # of one file


def unpack(archive: IO[bytes], contents: IO[bytes], caps: Caps | None = None) -> Tree:
    """The members of the tar `archive`; what is in its files goes to the end of `contents`, which is empty.

    Raises Rejected, naming the member.
    """
    reader = _Reader(contents, caps or Caps())
    try:
        with tarfile.open(fileobj=archive, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                reader.add(tar, member)
    except (tarfile.TarError, EOFError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Rejected(f"the upload is not a whole tar archive ({error}); publish again") from error
    contents.flush()
    for _ in expand(reader.tree):  # now that all links are known: each must end at a file or folder of the upload
        pass
    return reader.tree


class _Reader:
    def __init__(self, contents: IO[bytes], caps: Caps) -> None:
        self._contents = contents
        self._caps = caps
        self._count = 0
        self._written = 0
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
            if parts in self.tree.files or parts in self.tree.links:
                raise Rejected(f"{name}: this path is twice in the upload; publish again")
            self._make_directories(parts, name)
        elif not parts:
            raise Rejected("a file without a name in the upload; publish again")
        elif member.isreg():
            self._place(parts, name)
            self.tree.files[parts] = self._file(tar, member, name)
        elif member.issym():
            self._place(parts, name)
            self.tree.links[parts] = member.linkname
        elif member.islnk():
            self._place(parts, name)
            self.tree.files[parts] = self._linked(member, name)
        else:
            raise Rejected(f"{name}: an entry of unknown kind {member.type!r}; remove it from the folder")

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> File:
        self._count_bytes(member.size, name)
        source = tar.extractfile(member)
        if source is None:
            raise Rejected(f"{name}: no content in the upload; publish again")
        offset, left = self._written, member.size
        with source:
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise Rejected(f"{name}: the upload ends in the middle of this file; publish again")
                self._contents.write(chunk)
                left -= len(chunk)
        self._written += member.size
        mtime = int(min(max(member.mtime, _EARLIEST), _LATEST))
        return File(0o755 if member.mode & 0o111 else 0o644, mtime, member.size, offset)

    def _linked(self, member: tarfile.TarInfo, name: str) -> File:
        # A hard link names an earlier member of the archive; here it is a second file with the same content.
        known = self.tree.files.get(split(member.linkname))
        if known is None:
            raise Rejected(f"{name}: a hard link to {shown(member.linkname)}, which is not in the upload; copy it")
        self._count_bytes(known.size, name)
        return known

    def _count_bytes(self, size: int, name: str) -> None:
        if size > self._caps.file:
            raise Rejected(f"{name}: {size} bytes; a file may have {self._caps.file} at most")
        self.tree.size += size
        if self.tree.size > self._caps.bytes:
            limit = self._caps.bytes >> 20
            raise Rejected(f"{name}: with it the folder has more than {limit} MiB; leave out what is not needed")

    def _place(self, parts: Parts, name: str) -> None:
        """Raise unless `parts` is free, and make the folders above it."""
        if parts in self.tree.files or parts in self.tree.links or parts in self.tree.directories:
            raise Rejected(f"{name}: this path is twice in the upload; publish again")
        self._make_directories(parts[:-1], name)

    def _make_directories(self, parts: Parts, name: str) -> None:
        for depth in range(len(parts), 0, -1):
            folder = parts[:depth]
            if folder in self.tree.directories:
                return  # and so are those above it
            if folder in self.tree.files or folder in self.tree.links:
                raise Rejected(f"{name}: a file or symlink of the upload is in the place of its folder")
            self.tree.directories.add(folder)
