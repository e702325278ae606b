"""A release's files as a directory, for the time in which it loads: unpacked from its pack, a cache by pack hash.

A tree is made under a temporary name and renamed when it is whole; a name that is there is complete.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from fildes.kernel.fds import Fd
from fildes.pack.reader import Pack

_ROOTS = ("app", "deps")


class BadPack(ValueError):
    """The pack names a path that no release may have."""


def unpack(pack_fd: int, trees: str, name: str) -> str:
    """The path of the tree `name` below the directory `trees`, unpacked from the pack unless it is there.

    Sets the umask: it is work for a child.

    Raises BadPack, and OSError (a full disk, say); nothing half-made is left either way.
    """
    final = os.path.join(trees, name)
    if os.path.isdir(final):
        return final
    partial = f"{final}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.umask(0o022)  # the service's uid reads it; STATE/trees itself keeps others out
    os.mkdir(partial, 0o755)
    try:
        with Pack(pack_fd) as pack:
            _write(pack, partial)
        os.rename(partial, final)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if os.path.isdir(final):  # somebody else was first
            return final
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _write(pack: Pack, root: str) -> None:
    os.mkdir(os.path.join(root, "app"), 0o755)
    for entry in pack:
        parts = Path(entry.path).parts
        if entry.path == "/":
            continue
        if parts[0] != "/" or ".." in parts or len(parts) < 2 or parts[1] not in _ROOTS:
            raise BadPack(f"a pack of a release holds /app and /deps only, this one names {entry.path!r}")
        target = os.path.join(root, *parts[1:])
        if stat.S_ISDIR(entry.mode):
            os.makedirs(target, 0o755, exist_ok=True)
        elif stat.S_ISREG(entry.mode):
            with Fd.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644) as fd:
                view = memoryview(pack.read(entry))
                while view:
                    view = view[os.write(fd.fileno(), view) :]
            os.utime(target, (entry.mtime, entry.mtime))


def sweep(trees: str, keep: set[str]) -> None:
    """Remove what a crash left half-made, and the trees of packs that no release has any more."""
    for name in os.listdir(trees):
        if name.endswith(".partial") or (len(name) == 64 and name not in keep):
            shutil.rmtree(os.path.join(trees, name), ignore_errors=True)
