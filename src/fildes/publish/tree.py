"""What an upload holds: an index by path, while its contents lie back to back in one file.

Names of strangers never become names in a file system here: what has no path can't lead anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from fildes.publish.names import Rejected, follow, shown

Parts = tuple[str, ...]

MAX_EXPANDED: Final = 200_000  # files and folders once symlinks are replaced by what they point to


class File(NamedTuple):
    """`mode` is 0o644 or 0o755, `mtime` in seconds; the content is `size` bytes at `offset` of the contents' file."""

    mode: int
    mtime: int
    size: int
    offset: int


@dataclass
class Tree:
    """Paths are tuples of names; () is the folder itself. `size`: of all contents together, bytes."""

    files: dict[Parts, File] = field(default_factory=dict)
    links: dict[Parts, str] = field(default_factory=dict)
    directories: set[Parts] = field(default_factory=lambda: {()})
    size: int = 0


def expand(tree: Tree) -> Iterator[tuple[Parts, File | None]]:
    """Every file, and every folder (None), with symlinks replaced by what they point to; a folder before its content.

    Raises Rejected for symlinks that lead out, nowhere, or into a folder that they are in.
    """
    below: dict[Parts, list[Parts]] = {}
    for parts in (*tree.files, *tree.links, *(tree.directories - {()})):
        below.setdefault(parts[:-1], []).append(parts)
    count = 0
    # (as what it is seen, what it is, the folders that it is in)
    todo: list[tuple[Parts, Parts, tuple[Parts, ...]]] = [((), (), ())]
    while todo:
        seen, real, above = todo.pop()
        if real in tree.links:
            real = follow(real, tree.links[real], tree.links)
            if real in above:
                raise Rejected(f"{shown('/'.join(seen))}: a symlink that leads back into a folder that it is in")
        if real not in tree.files and real not in tree.directories:
            raise Rejected(f"{shown('/'.join(seen))}: a symlink to what is not in the folder; remove it")
        count += 1
        if count > MAX_EXPANDED:
            raise Rejected(f"{shown('/'.join(seen))}: more than {MAX_EXPANDED} files, symlinks followed; remove some")
        if real in tree.files:
            yield seen, tree.files[real]
            continue
        yield seen, None
        for child in sorted(below.get(real, ()), reverse=True):
            todo.append(((*seen, child[-1]), child, (*above, real)))


class Content:
    """A file's content as something to `read`, out of the contents' file `fd` (borrowed)."""

    def __init__(self, fd: int, file: File) -> None:
        self._fd, self._at, self._end = fd, file.offset, file.offset + file.size

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._at)
        self._at += len(data)
        return data


_Stored = tuple[dict[str, tuple[int, int, int, int]], dict[str, str], list[str], int]
_decoder: msgspec.msgpack.Decoder[_Stored] = msgspec.msgpack.Decoder(_Stored)


def encode(tree: Tree) -> bytes:
    def name(parts: Parts) -> str:
        return "/".join(parts)

    files = {name(parts): tuple(file) for parts, file in tree.files.items()}
    links = {name(parts): target for parts, target in tree.links.items()}
    return msgspec.msgpack.encode((files, links, [name(parts) for parts in tree.directories if parts], tree.size))


def decode(data: bytes) -> Tree:
    """Raises msgspec.DecodeError."""
    files, links, directories, size = _decoder.decode(data)

    def parts(name: str) -> Parts:
        return tuple(name.split("/"))

    return Tree(
        {parts(name): File(*file) for name, file in files.items()},
        {parts(name): target for name, target in links.items()},
        {(), *(parts(name) for name in directories)},
        size,
    )
