"""Mounts as descriptors: fsopen(2) and its kin, mount_setattr(2), pivot_root(2), umount2(2).

A mount made here is attached nowhere until `move_mount`: it is held by its descriptor like anything else,
and gone when the last one is closed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.libc import syscall

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC

MOUNT_ATTR_RDONLY: Final = 0x00000001
MOUNT_ATTR_NOSUID: Final = 0x00000002
MOUNT_ATTR_NODEV: Final = 0x00000004
MOUNT_ATTR_NOEXEC: Final = 0x00000008
MOUNT_ATTR_NOATIME: Final = 0x00000010
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x00200000
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19

FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x00000040
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8


class _MountAttr(ctypes.Structure):
    # struct mount_attr, <linux/mount.h>
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def new_filesystem(type: str, options: Mapping[str, str | None], attributes: int = 0) -> Fd:
    """A new, detached mount of a new file system; an option of value None is a flag.

    Raises OSError naming the option that the kernel refused.
    """
    with Fd(_asked(f"fsopen {type}", "fsopen", type.encode(), FSOPEN_CLOEXEC)) as context:
        for key, value in options.items():
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            text = None if value is None else value.encode()
            what = f"{type} option {key}" + ("" if value is None else f"={value}")
            _asked(what, "fsconfig", context.fileno(), command, key.encode(), text, 0)
        _asked(type, "fsconfig", context.fileno(), FSCONFIG_CMD_CREATE, None, None, 0)
        return Fd(_asked(type, "fsmount", context.fileno(), FSMOUNT_CLOEXEC, attributes))


def open_tree(path: str, flags: int = 0, dir_fd: int = AT_FDCWD) -> Fd:
    """open_tree(2), close-on-exec. With OPEN_TREE_CLONE (and AT_RECURSIVE): a detached copy of the mount."""
    what = f"open_tree {path or f'fd {dir_fd}'}"
    return Fd(_asked(what, "open_tree", dir_fd, os.fsencode(path), flags | OPEN_TREE_CLOEXEC))


def set_attributes(
    fd: int, set: int, clear: int = 0, recursive: bool = True, *, propagation: int = 0, path: str = ""
) -> None:
    """mount_setattr(2) on the mount `fd` (borrowed), or on `path` below it."""
    attributes = _MountAttr(set, clear, propagation, 0)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    size = ctypes.sizeof(attributes)
    what = f"mount_setattr {path or f'fd {fd}'}"
    _asked(what, "mount_setattr", fd, os.fsencode(path), flags, ctypes.byref(attributes), size)


def make_private(path: str = "/") -> None:
    """Cut `path` and all below it off from the propagation of mounts, both ways."""
    set_attributes(AT_FDCWD, 0, propagation=MS_PRIVATE, path=path)


def move_mount(from_fd: int, to_dir_fd: int, to_path: str) -> None:
    """Attach the detached mount `from_fd` at `to_path` below `to_dir_fd` (both borrowed).

    The target may lie in a tree that is itself detached only from 6.15 on.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    what = f"attach a mount at {to_path or f'fd {to_dir_fd}'}"
    _asked(what, "move_mount", from_fd, b"", to_dir_fd, os.fsencode(to_path), flags)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2); both "." swaps the root for the current directory and stacks the old one on it."""
    _asked(f"pivot_root {new}", "pivot_root", os.fsencode(new), os.fsencode(old))


def detach(path: str) -> None:
    """Take the mount at `path` out of the tree now; the kernel frees it when its last user is gone."""
    _asked(f"detach {path}", "umount2", os.fsencode(path), MNT_DETACH | UMOUNT_NOFOLLOW)


def mount_points(mountinfo: str) -> list[str]:
    """The mount points of the text of a /proc/PID/mountinfo, in the order in which they were attached."""
    return [_unescape(line.split(" ", 5)[4]) for line in mountinfo.splitlines()]


def _unescape(path: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def _asked(what: str, name: str, *arguments: object) -> int:
    try:
        return syscall(name, *arguments)
    except OSError as error:
        raise OSError(error.errno, f"{what}: {os.strerror(error.errno or 0)} ({name})") from error
