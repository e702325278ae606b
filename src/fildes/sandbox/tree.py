"""A tree that lasts and can be written, as an entry of a view: the only place outside /tmp that can.

Where the node has root it is a file system of its own in a file, so the kernel keeps the quota. Every zygote mounts it
for itself, one disk and one file system for all of them; the loop device goes with the last mount, and so with the last
process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import Final

from fildes.kernel import loops, mounts
from fildes.kernel.fds import Fd
from fildes.sandbox import view

_ATTRIBUTES: Final = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
_WORDS: Final = ("-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard")
_MADE: Final = stat.S_IRGRP  # on an image: its file system is whole; who made it was not killed over it
MAKERS: Final = ("/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs")


def maker() -> str | None:
    """The program that makes file systems (e2fsprogs), where there is one."""
    return next((path for path in MAKERS if os.access(path, os.X_OK)), None)


@dataclass(frozen=True)
class Image:
    """A file system in the file `image`. Descriptors are borrowed: `lock` is the directory in which it lies."""

    path: str
    image: int
    lock: int
    quota: int
    owner: int

    def describe(self) -> str:
        return f"{self.path} can be written, and lasts: a file system of {self.quota:,} bytes"

    def make(self, root: int) -> None:
        mount = mounted(self.image, self.lock, _ATTRIBUTES | mounts.MOUNT_ATTR_NOATIME)
        with mount:
            with Fd.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount.fileno()) as top:
                if os.fstat(top.fileno()).st_uid != self.owner:
                    with contextlib.suppress(OSError):
                        os.rmdir("lost+found", dir_fd=top.fileno())
                    os.fchmod(top.fileno(), 0o700)
                    os.fchown(top.fileno(), self.owner, self.owner)
            view.attach(mount.fileno(), self.path, root)


@dataclass(frozen=True)
class Folder:
    """A plain directory of the machine, where the node has no root: all is one user's. Nobody keeps its quota."""

    path: str
    source: str

    def describe(self) -> str:
        return f"{self.path} can be written, and lasts: a plain directory, whose quota is not kept on this machine"

    def make(self, root: int) -> None:
        with mounts.open_tree(self.source, mounts.OPEN_TREE_CLONE) as tree:
            mounts.set_attributes(tree.fileno(), _ATTRIBUTES)
            view.attach(tree.fileno(), self.path, root)


def made(image: int) -> bool:
    """Whether there is a whole file system in the file `image` (borrowed) yet."""
    return bool(os.fstat(image).st_mode & _MADE)


def mounted(image: int, lock: int, attributes: int) -> Fd:
    """A detached mount of the file system in `image`, made if need be; one and the same for all who mount it.

    `attributes` (MOUNT_ATTR_…) are this mount's own. Both descriptors are borrowed: `lock` is the directory in which
    the image lies. Raises OSError.
    """
    # Its own description: locks belong to those, and the one that came may be shared.
    with Fd.open(f"/proc/self/fd/{lock}", os.O_RDONLY | os.O_DIRECTORY) as own:
        fcntl.flock(own.fileno(), fcntl.LOCK_EX)
        device = loops.attached(image)
        if device is None:
            if not made(image):
                _make_filesystem(image)
            device = loops.attach(image)
        with device:
            options = {"source": loops.path_of(device.fileno()), "discard": None, "errors": "remount-ro"}
            return mounts.new_filesystem("ext4", options, attributes)


def _make_filesystem(image: int) -> None:
    """Raises OSError. The file holds nothing of anybody's yet."""
    program = maker()
    if program is None:
        raise OSError("mke2fs is not there: install e2fsprogs")
    os.set_inheritable(image, True)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            words = [program, *_WORDS, f"/proc/self/fd/{image}"]
            os.execve(program, words, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        finally:
            os._exit(127)
    _, status = os.waitpid(pid, 0)
    os.set_inheritable(image, False)
    if status:
        raise OSError(f"mke2fs ended with {os.waitstatus_to_exitcode(status)}")
    os.fsync(image)
    os.fchmod(image, 0o600 | _MADE)
    os.fsync(image)
