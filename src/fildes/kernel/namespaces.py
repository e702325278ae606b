"""unshare(2), setns(2), and the id maps of a user namespace (user_namespaces(7))."""

from __future__ import annotations

import os
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.libc import syscall

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

NAMES: Final = {
    CLONE_NEWUSER: "user",
    CLONE_NEWNS: "mount",
    CLONE_NEWNET: "net",
    CLONE_NEWPID: "pid",
    CLONE_NEWIPC: "ipc",
    CLONE_NEWUTS: "uts",
    CLONE_NEWCGROUP: "cgroup",
    CLONE_NEWTIME: "time",
}


def names(flags: int) -> list[str]:
    """The namespaces that `flags` stand for, in words."""
    return [name for flag, name in NAMES.items() if flags & flag]


def unshare(flags: int) -> None:
    """Move this process into new namespaces. With CLONE_NEWPID it is its children that move."""
    try:
        syscall("unshare", flags)
    except OSError as error:
        raise OSError(
            error.errno, f"no new {', '.join(names(flags))} namespace: {error.strerror}; see `fildes doctor`"
        ) from error


def setns(fd: int, flags: int) -> None:
    """Enter the namespaces `flags` of the namespace file or, 5.8 on, the pidfd `fd` (borrowed)."""
    syscall("setns", fd, flags)


def write_id_maps(
    pid: int | str, uid_map: str, gid_map: str, *, deny_setgroups: bool, proc_fd: int | None = None
) -> None:
    """Write the maps of the user namespace that `pid` (or "self") made; lines "inside outside count".

    Without privileges over the parent namespace a map is one line of one's own id, and setgroups must be
    denied first. `proc_fd` is a directory descriptor of /proc where the path itself can't be reached.
    """
    if deny_setgroups:
        _write(f"{pid}/setgroups", "deny", proc_fd)
    _write(f"{pid}/uid_map", uid_map, proc_fd)
    _write(f"{pid}/gid_map", gid_map, proc_fd)


def _write(name: str, text: str, proc_fd: int | None) -> None:
    path = name if proc_fd is not None else f"/proc/{name}"
    with Fd.open(path, os.O_WRONLY, dir_fd=proc_fd) as file:
        os.write(file.fileno(), text.encode())
