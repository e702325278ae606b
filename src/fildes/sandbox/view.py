"""What a view is made of: entries that say what they are, and make themselves below a root.

Each entry's path is absolute, as the confined program sees it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Protocol

from fildes.kernel import mounts
from fildes.kernel.fds import Fd

_BASIC: Final = mounts.MOUNT_ATTR_NOSUID
_PLAIN: Final = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True)
class Directory:
    path: str

    def describe(self) -> str:
        return f"{self.path}/"

    def make(self, root: int) -> None:
        _directories(_inside(self.path), root)


@dataclass(frozen=True)
class Link:
    path: str
    target: str

    def describe(self) -> str:
        return f"{self.path} → {self.target}"

    def make(self, root: int) -> None:
        path = _with_parent(self.path, root)
        os.symlink(self.target, path, dir_fd=root)


@dataclass(frozen=True)
class File:
    """A small file of our own words."""

    path: str
    content: str

    def describe(self) -> str:
        return f"{self.path}, {len(self.content.encode())} bytes of ours"

    def make(self, root: int) -> None:
        path = _with_parent(self.path, root)
        with Fd.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444, dir_fd=root) as fd:
            os.write(fd.fileno(), self.content.encode())


@dataclass(frozen=True)
class Copy:
    """The bytes of `source`, a descriptor (borrowed), which nobody else may hold or see."""

    path: str
    source: int

    def describe(self) -> str:
        return f"{self.path}, a copy"

    def make(self, root: int) -> None:
        path = _with_parent(self.path, root)
        with Fd.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444, dir_fd=root) as fd:
            at = 0
            while part := os.pread(self.source, 1 << 16, at):
                at += os.write(fd.fileno(), part)


@dataclass(frozen=True)
class Bind:
    """A read-only, nosuid bind of `source`, with what is mounted below it; devices work only where it says so."""

    path: str
    source: str
    devices: bool = False

    def describe(self) -> str:
        return f"{self.path} read-only" + ("" if self.source == self.path else f", from {self.source}")

    def make(self, root: int) -> None:
        # Recursive: in a user namespace a mount with others below it can't be cloned without them.
        with mounts.open_tree(self.source, mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE) as tree:
            attributes = _BASIC | mounts.MOUNT_ATTR_RDONLY | (0 if self.devices else mounts.MOUNT_ATTR_NODEV)
            mounts.set_attributes(tree.fileno(), attributes)
            if os.path.isdir(self.source):
                path = _inside(self.path)
                _directories(path, root)
            else:
                path = _with_parent(self.path, root)
                Fd.open(path, os.O_WRONLY | os.O_CREAT, 0o444, dir_fd=root).close()
            mounts.move_mount(tree.fileno(), root, path)


@dataclass(frozen=True)
class Filesystem:
    """A new file system, nosuid, nodev, noexec; `options` as in mount(8)."""

    path: str
    type: str
    options: tuple[tuple[str, str], ...] = ()
    read_only: bool = False

    def describe(self) -> str:
        options = "".join(f", {key}={value}" for key, value in self.options)
        return f"{self.path}, a new {self.type}{options}" + (", read-only" if self.read_only else "")

    def make(self, root: int) -> None:
        attributes = _PLAIN | (mounts.MOUNT_ATTR_RDONLY if self.read_only else 0)
        with mounts.new_filesystem(self.type, dict(self.options), attributes) as filesystem:
            attach(filesystem.fileno(), self.path, root)


class Entry(Protocol):
    """Says what it is, and makes itself below a root (borrowed)."""

    @property
    def path(self) -> str: ...

    def describe(self) -> str: ...

    def make(self, root: int) -> None: ...


def attach(mount: int, path: str, root: int) -> None:
    """Put a detached mount (borrowed) at `path` below `root`."""
    inside = _inside(path)
    _directories(inside, root)
    mounts.move_mount(mount, root, inside)


def _inside(path: str) -> str:
    return path.lstrip("/")


def _with_parent(path: str, root: int) -> str:
    inside = _inside(path)
    _directories(os.path.dirname(inside), root)
    return inside


def _directories(path: str, root: int) -> None:
    made = ""
    for part in filter(None, path.split("/")):
        made = f"{made}/{part}" if made else part
        try:
            os.mkdir(made, 0o755, dir_fd=root)
        except FileExistsError:
            continue
