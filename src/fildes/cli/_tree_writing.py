"""The tar of a tree (_tree_reading.py) back into a folder. What it says is input from outside, and who reads it may be
root: every path is followed folder by folder, from one that is held, through nothing but folders that were made here;
nothing is written over, and only plain files, folders and links are made.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from typing import IO, Any, Final, NamedTuple

from fildes.cli._tree_reading import LONGEST, QUOTA, SPARSE, deepest
from fildes.kernel.fds import Fd, close_all

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_BITS: Final = 0o1777  # of a mode: nothing here runs as somebody else
_PIECE: Final = 1 << 20
_HEADERS: Final = 1 << 20  # bytes that tarfile may read for what comes before one file
_TIME: Final = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?")
_COUNTS: Final = re.compile(r"([0-9]{1,15}) ([0-9]{1,19})")
_LARGEST: Final = (1 << 63) - 1
# All that reading a tar which nobody meant as one has been seen to raise.
DAMAGE: Final = (tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError)


class Damaged(ValueError):
    """This is no tree that a backup holds; the text says what it has."""


class Meta(NamedTuple):
    mode: int
    mtime: int  # ns


class Bounded:
    """A file for tarfile, which believes what a header says of its length and would read all of that into memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left: int | None = _HEADERS

    def headers(self) -> None:
        """What is read next is what comes before one file."""
        self._left = _HEADERS

    def content(self) -> None:
        """What is read next is a file, in pieces."""
        self._left = None

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise Damaged("a header of it has no length")
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise Damaged("a header of it is too long")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def quota_of(file: IO[bytes]) -> int:
    """What the tree could hold, in bytes. Raises one of DAMAGE."""
    file.seek(0)
    with _opened(Bounded(file)) as tar:
        first = tar.next()
        said = "" if first is None else first.pax_headers.get(QUOTA, "")
    if not re.fullmatch(r"[0-9]{1,15}", said):
        raise Damaged("its beginning is not there")
    return int(said)


class Unpacker:
    """What the tar in `file` says, into the empty folder `top` (borrowed); all of it `owner`'s, or ours if None."""

    def __init__(self, file: IO[bytes], top: int, owner: int | None) -> None:
        self._file, self._top, self._owner = file, top, -1 if owner is None else owner
        self._folders: list[tuple[str, Meta]] = []
        self._way: list[Fd] = []  # from the top to the folder that was looked at last
        self._names: list[bytes] = []  # of these
        self._deepest = deepest()

    def run(self) -> None:
        """Raises OSError, and one of DAMAGE."""
        self._file.seek(0)
        source = Bounded(self._file)
        try:
            with _opened(source) as tar:
                while True:
                    source.headers()
                    info = tar.next()
                    if info is None:
                        break
                    self._entry(info)
                    vars(tar)["members"].clear()  # it would keep all of them
            # The last first: what holds a folder may forbid to enter it, and changes with what is in it.
            for path, meta in reversed(self._folders):
                self._finish(self._folder(_parts(path)), meta)
        finally:
            close_all(self._way)

    def _entry(self, info: tarfile.TarInfo) -> None:
        meta = _meta(info)
        if info.size < 0 or info.issparse():
            raise Damaged(f"{ascii(info.name)[:80]} is nothing that a backup holds")
        parts = _parts(info.name)
        if not parts:
            if not info.isdir():
                raise Damaged("its top is no folder")
            self._folders.append((info.name, meta))
            return
        above, name = self._folder(parts[:-1]), parts[-1]
        if info.isdir():
            os.mkdir(name, 0o700, dir_fd=above)
            self._folders.append((info.name, meta))
        elif info.isreg():
            with Fd.open(name, _FILE, 0o600, dir_fd=above) as file:
                self._content(info, file.fileno())
                self._finish(file.fileno(), meta)
        elif info.issym():
            target = _bytes(info.linkname)
            if not target or b"\0" in target:
                raise Damaged(f"{ascii(info.name)[:80]} leads nowhere")
            os.symlink(target, name, dir_fd=above)
            os.chown(name, self._owner, self._owner, dir_fd=above, follow_symlinks=False)
            os.utime(name, ns=(meta.mtime, meta.mtime), dir_fd=above, follow_symlinks=False)
        elif info.islnk():
            *way, other = _parts(info.linkname) or [b""]
            # The one that is asked for next may close this one.
            with Fd.open(".", _FOLDER, dir_fd=above) as held:
                folder = self._folder(way)
                if not stat.S_ISREG(os.stat(other, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise Damaged(f"{ascii(info.name)[:80]} is another name of what is no file")
                os.link(other, name, src_dir_fd=folder, dst_dir_fd=held.fileno(), follow_symlinks=False)
        else:
            raise Damaged(f"{ascii(info.name)[:80]} is no file, no folder and no link")

    def _content(self, info: tarfile.TarInfo, target: int) -> None:
        begin, end = info.offset_data, info.offset_data + info.size
        counts = info.pax_headers.get(SPARSE)
        if counts is None:
            self._copy(begin, target, 0, info.size)
            return
        found = _COUNTS.fullmatch(counts)
        count, size = (int(found[1]), int(found[2])) if found else (0, -1)
        data = begin + count * 16
        if not 0 <= size <= _LARGEST or data > end:
            raise Damaged(f"{ascii(info.name)[:80]} is sparse in a way that a backup does not know")
        os.ftruncate(target, size)
        behind = 0
        for number in range(count):
            piece = os.pread(self._file.fileno(), 16, begin + number * 16)
            offset, length = int.from_bytes(piece[:8], "little"), int.from_bytes(piece[8:], "little")
            if offset < behind or offset + length > size or data + length > end:
                raise Damaged(f"{ascii(info.name)[:80]} is sparse in a way that a backup does not know")
            self._copy(data, target, offset, length)
            data, behind = data + length, offset + length

    def _finish(self, file: int, meta: Meta) -> None:
        os.fchown(file, self._owner, self._owner)
        os.fchmod(file, meta.mode)
        os.utime(file, ns=(meta.mtime, meta.mtime))

    def _copy(self, position: int, target: int, offset: int, size: int) -> None:
        while size:
            data = os.pread(self._file.fileno(), min(_PIECE, size), position)
            if not data:
                raise Damaged("it ends in the middle of a file")
            _write(target, data, offset)
            position, offset, size = position + len(data), offset + len(data), size - len(data)

    # — folders —

    def _folder(self, way: list[bytes]) -> int:
        """Held until another one is asked for; those on the way to both stay open."""
        same = len(self._names)
        while way[:same] != self._names[:same]:
            same -= 1
        close_all(self._way[same:])
        del self._way[same:], self._names[same:]
        for name in way[same:]:
            if len(self._way) >= self._deepest:
                raise Damaged("a folder in it lies too deep")
            here = self._way[-1].fileno() if self._way else self._top
            self._way.append(Fd.open(name, _FOLDER, dir_fd=here))
            self._names.append(name)
        return self._way[-1].fileno() if self._way else self._top


def _opened(source: Bounded) -> tarfile.TarFile:
    file: Any = source
    return tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")


def _bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > LONGEST:
        raise Damaged("a path in it is too long")
    return data


def _parts(path: str) -> list[bytes]:
    """ "." has none. Raises Damaged."""
    parts = _bytes(path).split(b"/")
    if parts == [b"."]:
        return []
    if not {b"", b".", b".."}.isdisjoint(parts) or "\0" in path:
        raise Damaged(f"{ascii(path)[:80]} is no path within a tree")
    return parts


def _meta(info: tarfile.TarInfo) -> Meta:
    found = _TIME.fullmatch(info.pax_headers.get("mtime", ""))
    if found is None:
        raise Damaged(f"{ascii(info.name)[:80]} has no time")
    time = int(found[2]) * 10**9 + int((found[3] or "0").ljust(9, "0"))
    return Meta(info.mode & _BITS, -time if found[1] else time)


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count
