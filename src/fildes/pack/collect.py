"""From a directory to the members of a pack: what may be in a tree, and what becomes of its symbolic links."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fildes.pack.format import MAX_MEMBERS, PackError

MAX_DEPTH = 64
LEFT_OUT = frozenset({"__pycache__", ".git", ".hg", ".svn", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache"})


@dataclass(frozen=True, slots=True)
class Slice:
    """`size` bytes from `offset` of an open file; `fd` is borrowed. Reading raises EOFError where there are fewer."""

    fd: int
    offset: int
    size: int

    def read(self) -> bytes:
        return b"".join(self.pieces(self.size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """The bytes, in pieces of at most `size`."""
        at, end = self.offset, self.offset + self.size
        while at < end:
            piece = os.pread(self.fd, min(size, end - at), at)
            if not piece:
                raise EOFError(f"a file of {at} bytes was to be read up to {end}")
            yield piece
            at += len(piece)


@dataclass(frozen=True, slots=True)
class Source:
    """One member to be packed."""

    path: str
    """as the tenant sees it, absolute"""
    data: bytes | Path | Slice | None
    """its bytes, the file or the part of one that they are in, or None for a directory"""
    mode: int = 0o644
    mtime: int = 0


def keep_everything(_: str) -> bool:
    return True


def collect(root: Path | str, prefix: str, *, keep: Callable[[str], bool] = keep_everything) -> Iterator[Source]:
    """The members of the tree `root`, which tenants see at `prefix` ("/app"), sorted.

    Symbolic links are replaced by what they point to, which must lie inside `root`. Caches and version control
    (`LEFT_OUT`) are skipped, and so is every path (relative to `root`, with slashes) that `keep` refuses.
    Raises PackError for a link that leads out, nowhere or into itself, for devices, sockets and pipes, for names that
    are not UTF-8, and for more than MAX_MEMBERS of them.
    """
    base = Path(os.path.realpath(root))
    if not base.is_dir():
        raise PackError(f"{root}: not a directory")
    yield Source(prefix, None, 0o755, _seconds(base.stat()))
    # Links to directories can make a small tree a huge one: count while walking.
    for count, (inner, target, info) in enumerate(_walk(base, base, "", keep, ())):
        if count >= MAX_MEMBERS:
            raise PackError(f"{inner}: more than {MAX_MEMBERS} files and directories")
        path = f"{prefix.rstrip('/')}/{inner}"
        if stat.S_ISDIR(info.st_mode):
            yield Source(path, None, 0o755, _seconds(info))
        else:
            yield Source(path, target, 0o755 if info.st_mode & 0o111 else 0o644, _seconds(info))


def _walk(
    base: Path, folder: Path, relative: str, keep: Callable[[str], bool], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Path, os.stat_result]]:
    here = folder.stat()
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        raise PackError(f"{relative}: a symbolic link leads back to a directory that it is in")
    if len(above) >= MAX_DEPTH:
        raise PackError(f"{relative}: the tree is deeper than {MAX_DEPTH} directories")
    for name in sorted(os.listdir(folder)):
        inner = f"{relative}/{name}" if relative else name
        try:
            name.encode()
        except UnicodeEncodeError:
            raise PackError(f"{os.fsencode(inner)!r}: the file's name is not UTF-8; rename it") from None
        if name in LEFT_OUT or not keep(inner):
            continue
        target = _inside(base, folder / name, inner)
        info = target.stat()
        if stat.S_ISDIR(info.st_mode):
            yield inner, target, info
            yield from _walk(base, target, inner, keep, (*above, identity))
        elif stat.S_ISREG(info.st_mode):
            yield inner, target, info
        else:
            raise PackError(f"{inner}: a release holds files and directories; this is a device, a socket or a pipe")


def _inside(base: Path, path: Path, inner: str) -> Path:
    if not path.is_symlink():
        return path
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise PackError(f"{inner}: a symbolic link to {os.readlink(path)!r}, which leads nowhere") from None
    if not target.is_relative_to(base):
        outside = f"{inner}: a symbolic link to {os.readlink(path)!r}, which is outside of the folder"
        raise PackError(f"{outside}; put the file itself there")
    return target


def _seconds(info: os.stat_result) -> int:
    return max(0, int(info.st_mtime))
