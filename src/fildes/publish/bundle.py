"""The canonical form of what was published: sources and lock in one tar whose sha256 names it.

Sorted by path, no owner, no time, two modes: the same files give the same bytes.
Times matter to programs (Last-Modified, ETags made from mtime), so the pack keeps the upload's; the hash doesn't.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from typing import IO, Any, Final, cast

from fildes.publish.lockfile import LOCK
from fildes.publish.tree import Content, Parts, Tree

_MTIME: Final = 315532800  # 1980-01-01: zip files and their readers know nothing earlier


class _Hashing(io.RawIOBase):
    """A file that is written and hashed at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self._file.write(data)


def write_bundle(tree: Tree, contents: int, lock: bytes | None, into: IO[bytes]) -> str:
    """Write the canonical tar of `tree` and `lock` into `into`; its sha256 in hex.

    `contents` is the (borrowed) file that the tree's files lie in. A lock takes the place of an uploaded one.
    """
    out = _Hashing(into)
    paths: set[Parts] = set(tree.files) | set(tree.links) | (tree.directories - {()})
    if lock is not None:
        paths.add((LOCK,))
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for parts in _sorted(paths):
            info = tarfile.TarInfo("/".join(parts))
            info.mtime = _MTIME
            info.mode = 0o644
            if parts == (LOCK,) and lock is not None:
                info.size = len(lock)
                tar.addfile(info, io.BytesIO(lock))
            elif parts in tree.files:
                file = tree.files[parts]
                info.mode, info.size = file.mode, file.size
                tar.addfile(info, cast(IO[bytes], Content(contents, file)))
            elif parts in tree.links:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, tree.links[parts], 0o777
                tar.addfile(info)
            else:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
    into.flush()
    return out.hash.hexdigest()


def _sorted(paths: Iterable[Parts]) -> list[Parts]:
    return sorted(paths, key=lambda parts: [os.fsencode(part) for part in parts])
