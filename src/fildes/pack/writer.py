"""Writes a pack. The same members give the same bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fildes.pack.bytecode import compile_sources
from fildes.pack.collect import Slice, Source, collect
from fildes.pack.format import (
    DT_DIR,
    DT_REG,
    ENTRY,
    HEADER,
    MAGIC,
    MAX_MEMBERS,
    MAX_SIZE,
    ROOT,
    VERSION,
    PackError,
    aligned,
    check_path,
    dirents,
)

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Summary:
    members: int
    """directories included"""
    size: int
    """of the pack's file, bytes"""
    contents: int
    """of all files together, before equal ones were stored once, bytes"""


def write_trees(output: BinaryIO, trees: Mapping[str, Path | str], *, python: str | None = None) -> Summary:
    """Packs directories, {"/app": sources, "/deps": site directory}, with byte code for `python` where one is named.

    `output` is a seekable binary file, written from its position 0. Raises PackError as `collect` and `write` do,
    OSError when a file cannot be read or `python` not run.
    """
    sources = [source for prefix, root in trees.items() for source in collect(root, prefix)]
    if python is not None:
        sources += with_bytecode(python, sources)
    return write(output, sources)


def with_bytecode(python: str, sources: Iterable[Source]) -> list[Source]:
    """The further members that hold the byte code of those of `sources` that are Python."""
    texts = [(s.path, _all(s.data)) for s in sources if s.data is not None and s.path.endswith(".py")]
    return [Source(path, data) for path, data in compile_sources(python, texts)]


def write(output: BinaryIO, sources: Iterable[Source]) -> Summary:
    """Packs `sources`, given in any order; directories that are missing on the way to a member are added.

    Raises PackError for a path that is not normal, one given twice with different contents, or too many members.
    """
    members = _complete(sources)
    paths = sorted(members)
    index = {path: number for number, path in enumerate(paths)}
    names = b"".join(paths)
    data_off = aligned(HEADER.size + len(paths) * ENTRY.size + len(names))
    place = _Contents(output, data_off)
    children: dict[bytes, list[tuple[int, int, bytes]]] = {path: [] for path in paths if members[path].data is None}
    for path in paths[1:]:
        folder, _, name = path.rpartition(b"/")
        kind = DT_DIR if members[path].data is None else DT_REG
        children[folder or b"/"].append((index[path] + 1, kind, name))

    table = bytearray()
    name_off = 0
    contents = 0
    for number, path in enumerate(paths):
        member = members[path]
        parent = index[path.rpartition(b"/")[0] or b"/"]
        if member.data is None:
            dots = [(number + 1, DT_DIR, b"."), (parent + 1, DT_DIR, b"..")]
            offset, size, etag = place.add(dirents(dots + children[path]))
            mode = stat.S_IFDIR | member.mode & 0o777
        else:
            offset, size, etag = place.add(member.data)
            mode = stat.S_IFREG | member.mode & 0o777
            contents += size
        table += ENTRY.pack(name_off, len(path), mode, parent, offset, size, member.mtime, 0, etag)
        name_off += len(path)
    total = place.end
    output.seek(0)
    names_off = HEADER.size + len(table)
    output.write(HEADER.pack(MAGIC, VERSION, len(paths), HEADER.size, names_off, len(names), data_off, total))
    output.write(table + names)
    output.truncate(total)
    output.flush()
    return Summary(len(paths), total, contents)


def _complete(sources: Iterable[Source]) -> dict[bytes, Source]:
    members: dict[bytes, Source] = {}
    for source in sources:
        path = os.fsencode(source.path)
        wrong = check_path(path)
        if wrong:
            raise PackError(f"{source.path!r}: {wrong}")
        before = members.get(path)
        if before is not None and (before.data is not None or source.data is not None):
            raise PackError(f"{source.path!r} was given twice")
        members[path] = source
    for path in list(members):
        above = path
        while above != b"/":
            above = above.rpartition(b"/")[0] or b"/"
            found = members.setdefault(above, Source(os.fsdecode(above), None, 0o755))
            if found.data is not None:
                raise PackError(f"{found.path!r} is both a file and a directory")
    members.setdefault(os.fsencode(ROOT), Source(ROOT, None, 0o755))
    if len(members) > MAX_MEMBERS:
        raise PackError(f"{len(members)} files and directories; a pack holds at most {MAX_MEMBERS}")
    return members


class _Contents:
    """The data part of the file: each content once, 16-aligned."""

    def __init__(self, output: BinaryIO, start: int) -> None:
        self._output = output
        self._known: dict[bytes, int] = {}
        self._files: dict[Path | Slice, tuple[int, int, bytes]] = {}
        self.end = start

    def add(self, data: bytes | Path | Slice) -> tuple[int, int, bytes]:
        """(offset, size, etag) of these contents."""
        if isinstance(data, bytes):
            return self._add(data)
        if data not in self._files:
            self._files[data] = self._add(data)
        return self._files[data]

    def _add(self, data: bytes | Path | Slice) -> tuple[int, int, bytes]:
        start = aligned(self.end)
        self._output.seek(self.end)
        self._output.write(bytes(start - self.end))
        digest = hashlib.sha256()
        size = 0
        if isinstance(data, bytes):
            digest.update(data)
            size = len(data)
            if digest.digest() not in self._known:
                self._output.write(data)
        else:
            for piece in _pieces(data):
                digest.update(piece)
                size += len(piece)
                self._output.write(piece)
        if size > MAX_SIZE:
            raise PackError(f"a file of {size} bytes; a pack holds files up to {MAX_SIZE}")
        key = digest.digest()
        offset = self._known.setdefault(key, start)
        if offset == start:
            self.end = start + size
        return offset, size, key[:16]


def _pieces(data: Path | Slice) -> Iterator[bytes]:
    if isinstance(data, Slice):
        yield from data.pieces(_PIECE)
        return
    with open(data, "rb", buffering=0) as source:
        while piece := source.read(_PIECE):
            yield piece


def _all(data: bytes | Path | Slice | None) -> bytes:
    if data is None or isinstance(data, bytes):
        return data or b""
    return data.read() if isinstance(data, Slice) else data.read_bytes()
