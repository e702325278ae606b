"""Reads a pack: by sorted look-up inside the mapping, with no object per member.

A hostile pack is refused when it is opened.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from fildes.pack.format import (
    ALIGN,
    DT_DIR,
    DT_REG,
    ENTRY,
    HEADER,
    MAGIC,
    MAX_MEMBERS,
    MAX_MTIME,
    MAX_SIZE,
    VERSION,
    PackError,
    check_mode,
    check_path,
    parse_dirents,
)


@dataclass(frozen=True, slots=True)
class Entry:
    index: int
    path: str
    mode: int
    """st_mode, with the type"""
    parent: int
    offset: int
    """of the contents in the pack's file, for pread(2) and sendfile(2)"""
    size: int
    mtime: int
    """seconds since 1970"""
    etag: bytes
    """the first 16 bytes of the contents' SHA-256"""

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Pack:
    """A pack over an fd that the caller keeps: `Pack(fd)` neither owns nor closes it (the mapping outlives it).

    Raises PackError for a file that is not a well-formed pack. The file must not change afterwards: a sealed memfd, or
    a file that nobody may write.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        length = os.fstat(fd).st_size
        if length < HEADER.size:
            raise PackError(f"not a pack: {length} bytes are fewer than its header has")
        self._map = mmap.mmap(fd, length, access=mmap.ACCESS_READ)
        try:
            self._read_header(length)
            self._validate()
        except BaseException:
            self._map.close()
            raise

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """All members, directories included, sorted by path."""
        return (self.entry(index) for index in range(self._count))

    def entry(self, index: int) -> Entry:
        if not 0 <= index < self._count:
            raise IndexError(index)
        fields = ENTRY.unpack_from(self._map, self._entries + index * ENTRY.size)
        _, _, mode, parent, offset, size, mtime, _, etag = fields
        return Entry(index, os.fsdecode(self._name(index)), mode, parent, offset, size, mtime, etag)

    def lookup(self, path: str) -> Entry | None:
        """The member with exactly this path, "/app/main.py"; None if there is none."""
        wanted = os.fsencode(path)
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            name = self._name(middle)
            if name == wanted:
                return self.entry(middle)
            if name < wanted:
                low = middle + 1
            else:
                high = middle
        return None

    def read(self, entry: Entry) -> bytes:
        """A file's contents."""
        if entry.is_dir:
            raise IsADirectoryError(f"{entry.path} is a directory of the pack")
        return self._map[entry.offset : entry.offset + entry.size]

    def list(self, entry: Entry) -> list[str]:
        """A directory's names, sorted, without "." and ".."."""
        if not entry.is_dir:
            raise NotADirectoryError(f"{entry.path} is a file of the pack")
        records = parse_dirents(self._map[entry.offset : entry.offset + entry.size])
        return [os.fsdecode(name) for _, _, name in records[2:]]

    def _name(self, index: int) -> bytes:
        at = self._entries + index * ENTRY.size
        start = self._names + int.from_bytes(self._map[at : at + 4], "little")
        return self._map[start : start + int.from_bytes(self._map[at + 4 : at + 8], "little")]

    def _read_header(self, length: int) -> None:
        magic, version, count, entries, names, names_len, data, total = HEADER.unpack_from(self._map)
        if magic != MAGIC:
            raise PackError("not a pack: its first bytes are not a pack's")
        if version != VERSION:
            raise PackError(f"a pack of version {version}; this Fildes reads version {VERSION}: publish again")
        if total != length:
            raise PackError(f"the pack says it has {total} bytes and has {length}: it was cut off or added to")
        if not 1 <= count <= MAX_MEMBERS:
            raise PackError(f"a pack of {count} members; 1 to {MAX_MEMBERS} are possible")
        if entries != HEADER.size or names != entries + count * ENTRY.size or not names + names_len <= data <= total:
            raise PackError("the pack's tables do not lie where they should")
        self._count: int = count
        self._entries, self._names, self._names_len, self._data = entries, names, names_len, data

    def _validate(self) -> None:
        """Everything that a later read relies on, so that no later read has to check anything."""
        total = len(self._map)
        modes: list[int] = []
        paths: list[bytes] = []
        children: list[list[tuple[int, int, bytes]]] = []
        table = self._map[self._entries : self._names]
        for index, fields in enumerate(ENTRY.iter_unpack(table)):
            name_off, name_len, mode, parent, offset, size, mtime, _, _ = fields
            if name_off + name_len > self._names_len:
                raise PackError(f"member {index}: its name lies outside the names")
            path = self._map[self._names + name_off : self._names + name_off + name_len]
            wrong = check_path(path)
            if wrong:
                raise PackError(f"member {index}: {wrong}")
            if (path != b"/") if index == 0 else (path <= paths[-1]):
                raise PackError(f"member {index}: the members are not sorted, or do not start with the root")
            if not check_mode(mode):
                raise PackError(f"member {index}: mode {mode:o} is neither a plain file's nor a directory's")
            if offset % ALIGN or not (self._data <= offset and size <= MAX_SIZE and offset + size <= total):
                raise PackError(f"member {index}: its contents lie outside the data")
            if not 0 <= mtime <= MAX_MTIME:
                raise PackError(f"member {index}: its time of change is impossible")
            modes.append(mode)
            paths.append(path)
            children.append([])
            if index == 0:
                fits = parent == 0 and stat.S_ISDIR(mode)
            else:
                head, _, tail = path.rpartition(b"/")
                fits = parent < index and stat.S_ISDIR(modes[parent]) and paths[parent] == (head or b"/")
                if fits:
                    children[parent].append((index + 1, DT_DIR if stat.S_ISDIR(mode) else DT_REG, tail))
            if not fits:
                raise PackError(f"member {index}: its directory is not in the pack")
        for index, fields in enumerate(ENTRY.iter_unpack(table)):
            if stat.S_ISDIR(modes[index]):
                start, parent = fields[4], fields[3]
                records = parse_dirents(self._map[start : start + fields[5]])
                dots = [(index + 1, DT_DIR, b"."), (parent + 1, DT_DIR, b"..")]
                if records[:2] != dots or records[2:] != children[index]:
                    raise PackError(f"member {index}: the directory's listing differs from what the pack holds")
