"""A folder → a tar in anonymous memory: the same files give the same bytes, whatever the folder's order.

What the node would refuse is refused here already, with the path as its user knows it; the node looks again.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fildes.cli._shared import Trouble
from fildes.kernel import memfd
from fildes.kernel.fds import Fd

LEFT_OUT: Final = frozenset({
    ".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__", ".tox", ".nox", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".hypothesis", ".DS_Store", ".gitmodules",
})  # fmt: skip
LEFT_OUT_ENDS: Final = (".pyc", ".pyo", ".swp", "~")
MAX_BYTES: Final = 512 << 20


@dataclass
class Packed:
    """`fd` is owned by whoever holds this; sizes in bytes."""

    fd: Fd
    files: int
    size: int


def pack(folder: str) -> Packed:
    """Raises Trouble, naming the file."""
    try:
        entries = sorted(_walk(folder, ""))
    except NotADirectoryError as error:
        raise Trouble(f"{folder}: is a file; name the folder to publish") from error
    except OSError as error:
        raise Trouble(f"{error.filename or folder}: {error.strerror}; it can't be published like this") from error
    if not entries:
        raise Trouble(f"{folder}: there is nothing in it to publish")
    packed = Packed(memfd.create("upload"), 0, 0)
    try:
        with (
            open(os.dup(packed.fd.fileno()), "wb") as out,
            tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar,
        ):
            for name in entries:
                _add(tar, folder, name, packed)
        os.lseek(packed.fd.fileno(), 0, os.SEEK_SET)
    except BaseException:
        packed.fd.close()
        raise
    return packed


def _walk(folder: str, below: str) -> Iterator[str]:
    """Paths relative to the folder, of everything that is to be published."""
    with os.scandir(os.path.join(folder, below)) as entries:
        for entry in entries:
            name = entry.name
            if name in LEFT_OUT or name.endswith(LEFT_OUT_ENDS) or name.startswith(".#"):
                continue
            path = f"{below}/{name}" if below else name
            try:
                path.encode("utf-8")
            except UnicodeEncodeError as error:
                text = f"{os.fsencode(path)!r}: the file's name is not UTF-8; rename it (for example with convmv)"
                raise Trouble(text) from error
            if entry.is_dir(follow_symlinks=False):
                if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):  # a virtual environment by another name
                    continue
                yield path
                yield from _walk(folder, path)
            else:
                yield path


def _add(tar: tarfile.TarFile, folder: str, name: str, packed: Packed) -> None:
    path = os.path.join(folder, name)
    info = tarfile.TarInfo(name)
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, _target(folder, name), 0o777
            tar.addfile(info)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as content:
                status = os.fstat(content.fileno())
                info.size, info.mtime = status.st_size, int(status.st_mtime)
                info.mode = 0o755 if status.st_mode & 0o111 else 0o644
                packed.files, packed.size = packed.files + 1, packed.size + info.size
                if packed.size > MAX_BYTES:
                    limit = MAX_BYTES >> 20
                    raise Trouble(f"{name}: with it the folder has more than {limit} MiB; leave out what isn't needed")
                tar.addfile(info, content)
        else:
            raise Trouble(f"{path}: {_kind(status.st_mode)} can't be published; remove it from the folder")
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror or 'it changed while it was read'}; publish again") from error


def _target(folder: str, name: str) -> str:
    """Where a symlink points to. Raises Trouble if that is outside of the folder, or nowhere."""
    path = os.path.join(folder, name)
    target = os.readlink(path)
    root, end = os.path.realpath(folder), os.path.realpath(path)
    if os.path.isabs(target) or not (end == root or end.startswith(os.path.join(root, ""))):
        raise Trouble(f"{path}: a symlink that leads out of the folder (to {target}); put a copy in its place")
    if not os.path.exists(end):
        raise Trouble(f"{path}: a symlink to {target}, which is not there; remove it")
    return target


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a device"
