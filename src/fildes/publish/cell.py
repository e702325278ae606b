"""The room in which uv and the interpreter run on what was uploaded: its own uid, namespaces and view.

In it there is the scratch directory, the interpreter, uv, the C library and the CA bundle, all but the first
read-only; a loopback as its only network; no process but its own. It is entered once, when the publish process
starts, and never left. Where a step is not allowed (no privileges, user namespaces switched off) it is left out
and named: `enter` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fildes.kernel import landlock, loopback, mounts, namespaces, process, seccomp
from fildes.kernel.fds import Fd

SCRATCH: Final = "/scratch"
UV: Final = "/uv"
_SYSTEM: Final = ("/usr/lib", "/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES: Final = ("/dev/null", "/dev/urandom")
_READ_ONLY: Final = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID
_FLAGS: Final = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET | namespaces.CLONE_NEWPID | namespaces.CLONE_NEWIPC


@dataclass(frozen=True)
class Cell:
    """`scratch`: path of the directory that becomes /scratch. `uid` None: stay who one is. `filter`: of seccomp."""

    scratch: str
    uid: int | None
    python: str
    uv: str
    ca: str
    filter: bytes


@dataclass(frozen=True)
class Place:
    """Where things are, once inside."""

    scratch: str
    python: str
    uv: str
    missing: tuple[str, ...]  # what of the room could not be had, in words


def interpreter() -> str:
    """The interpreter that releases run on: this node's own, outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def enter(cell: Cell) -> Place:
    """Enter for good. Returns in a new process, PID 1 of its namespace; the one that called has ended. Raises OSError
    when even the identity can't be changed."""
    missing: list[str] = []
    inside = _separate(missing)
    if os.fork():
        os._exit(0)
    process.set_name("fildes-cell")
    os.umask(0o022)  # a daemon's is stricter, and the folders of the view are for another uid
    if inside:
        loopback.bring_up()
        _view(cell)
    process.set_no_new_privs()
    if cell.uid is not None:
        process.become(cell.uid, cell.uid)
    process.drop_capabilities()
    process.set_dumpable(False)
    landlock.restrict(0, landlock.scopes())
    seccomp.install(cell.filter)
    if not inside:
        return Place(cell.scratch, cell.python, cell.uv, tuple(missing))
    return Place(SCRATCH, cell.python, UV, tuple(missing))


def _separate(missing: list[str]) -> bool:
    # Tried in a child first: a user namespace without maps is a place from which there is no way back.
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(reader, encoding="utf-8", errors="replace") as answer:
        pid = os.fork()
        if pid == 0:
            try:
                _unshare()
            except OSError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        said = answer.read()
    os.waitpid(pid, 0)
    if said:
        missing.append(said)
        return False
    _unshare()
    return True


def _unshare() -> None:
    effective, _, _ = process.capabilities()
    if process.CAP_SYS_ADMIN in effective:
        namespaces.unshare(_FLAGS)
        return
    uid, gid = os.geteuid(), os.getegid()
    namespaces.unshare(_FLAGS | namespaces.CLONE_NEWUSER)
    process.set_dumpable(True)  # or the maps belong to root
    namespaces.write_id_maps("self", f"{uid} {uid} 1", f"{gid} {gid} 1", deny_setgroups=True)


def _view(cell: Cell) -> None:
    mounts.make_private("/")
    with (
        mounts.open_tree(cell.scratch, mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE) as scratch,
        mounts.new_filesystem("tmpfs", {"mode": "0755", "size": "1m"}, mounts.MOUNT_ATTR_NOSUID) as root,
    ):
        # Any directory will do to hang it up: it becomes the root, and the old one goes. This one is ours.
        os.chdir(cell.scratch)
        mounts.move_mount(root.fileno(), mounts.AT_FDCWD, ".")
        for source, path in _binds(cell):
            _bind(source, path.lstrip("/"), root.fileno(), _READ_ONLY)
        for name in _SYSTEM:
            if os.path.islink(name):
                os.symlink(os.readlink(name), name.lstrip("/"), dir_fd=root.fileno())
        for device in _DEVICES:
            _bind(device, device.lstrip("/"), root.fileno(), mounts.MOUNT_ATTR_NOSUID)
        mounts.set_attributes(scratch.fileno(), mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV)
        os.mkdir(SCRATCH.lstrip("/"), 0o755, dir_fd=root.fileno())
        mounts.move_mount(scratch.fileno(), root.fileno(), SCRATCH.lstrip("/"))
        mounts.set_attributes(root.fileno(), mounts.MOUNT_ATTR_RDONLY, recursive=False)
        os.fchdir(root.fileno())
    mounts.pivot_root(".", ".")
    mounts.detach(".")
    os.chdir("/")


def _binds(cell: Cell) -> Iterator[tuple[str, str]]:
    for name in _SYSTEM:
        if os.path.exists(name) and not os.path.islink(name):
            yield name, name
    yield cell.uv, UV
    if sys.base_prefix != "/usr":  # else its library is under /usr/lib
        yield os.path.realpath(sys.base_prefix), sys.base_prefix
    if sys.base_prefix == "/usr" or not cell.python.startswith(os.path.join(sys.base_prefix, "")):
        yield cell.python, cell.python
    if cell.ca and os.path.exists(cell.ca):
        yield os.path.realpath(cell.ca), cell.ca


def _bind(source: str, path: str, root: int, attributes: int) -> None:
    flags = mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE
    with mounts.open_tree(source, flags) as tree:
        mounts.set_attributes(tree.fileno(), attributes)
        _make_target(path, root, directory=os.path.isdir(source))
        mounts.move_mount(tree.fileno(), root, path)


def _make_target(path: str, root: int, *, directory: bool) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts) + directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir("/".join(parts[:depth]), 0o755, dir_fd=root)
    if not directory and not os.access(path, os.F_OK, dir_fd=root):
        Fd.open(path, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=root).close()
