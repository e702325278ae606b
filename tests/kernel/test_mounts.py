"""Mounts as descriptors, namespaces, pivots: in a child with a mount namespace of its own, root or not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from fildes.kernel import mounts, namespaces, process
from fildes.testing import forked

T = TypeVar("T")
ATTRIBUTES = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV


def in_namespace(function: Callable[[], T]) -> T:
    def inside() -> T:
        uid, gid = os.geteuid(), os.getegid()
        own = namespaces.CLONE_NEWUSER if uid else 0
        namespaces.unshare(own | namespaces.CLONE_NEWNS)
        if own:
            namespaces.write_id_maps("self", f"0 {uid} 1", f"0 {gid} 1", deny_setgroups=True)
        mounts.make_private()
        return function()

    return forked.run(inside)


def error_of(action: Callable[[], object]) -> int:
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def mount_points() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return mounts.mount_points(file.read())


def test_a_view_is_entered_and_taken_away(tmp_path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").write_text("text")

    def view() -> dict[str, object]:
        found: dict[str, object] = {}
        with mounts.new_filesystem("tmpfs", {"mode": "0755", "size": "1m"}, ATTRIBUTES) as root:
            mounts.move_mount(root.fileno(), mounts.AT_FDCWD, str(tmp_path))
            os.mkdir("shown", dir_fd=root.fileno())
            os.chdir(root.fileno())
        found["hidden below the new mount"] = os.listdir(".")
        return found

    assert in_namespace(view) == {"hidden below the new mount": ["shown"]}

    def whole() -> dict[str, object]:
        found: dict[str, object] = {}
        flags = mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE
        shown = mounts.open_tree(str(tmp_path / "shown"), flags)
        with shown, mounts.new_filesystem("tmpfs", {"mode": "0755"}, ATTRIBUTES) as root:
            mounts.set_attributes(shown.fileno(), mounts.MOUNT_ATTR_RDONLY | ATTRIBUTES)
            mounts.move_mount(root.fileno(), mounts.AT_FDCWD, str(tmp_path))
            os.mkdir("data", dir_fd=root.fileno())
            mounts.move_mount(shown.fileno(), root.fileno(), "data")
            mounts.set_attributes(root.fileno(), mounts.MOUNT_ATTR_RDONLY, recursive=False)
            os.fchdir(root.fileno())
        mounts.pivot_root(".", ".")
        mounts.detach(".")
        os.chdir("/")
        found["root"] = os.listdir("/")
        with open("/data/file") as file:
            found["read"] = file.read()
            found["write"] = error_of(lambda: os.open("/data/file", os.O_WRONLY))
            found["create"] = error_of(lambda: os.mkdir("/new"))
            found["outside"] = error_of(lambda: os.stat(str(tmp_path)))
            mounts.detach("/data")
            found["after"] = os.listdir("/data")
            file.seek(0)
            found["held"] = file.read()  # a descriptor outlives the path
        return found

    assert in_namespace(whole) == {
        "root": ["data"],
        "read": "text",
        "write": errno.EROFS,
        "create": errno.EROFS,
        "outside": errno.ENOENT,
        "after": [],
        "held": "text",
    }


def test_nothing_of_it_reaches_the_outside(tmp_path) -> None:
    before = mount_points()

    def mount() -> int:
        with mounts.new_filesystem("tmpfs", {}, ATTRIBUTES) as root:
            mounts.move_mount(root.fileno(), mounts.AT_FDCWD, str(tmp_path))
        return mount_points().count(str(tmp_path))

    assert in_namespace(mount) == 1
    assert mount_points() == before


def test_errors_say_what_was_asked() -> None:
    def ask() -> list[str]:
        texts = []
        for wrong in (
            lambda: mounts.new_filesystem("tmpfs", {"size": "many"}),
            lambda: mounts.new_filesystem("nosuchfs", {}),
            lambda: mounts.open_tree("/nowhere", mounts.OPEN_TREE_CLONE),
            lambda: mounts.detach("/proc/self"),
        ):
            try:
                wrong()
            except OSError as error:
                texts.append(f"{error.strerror}")
        return texts

    size, unknown, nowhere, not_mounted = in_namespace(ask)
    assert "size=many" in size
    assert "nosuchfs" in unknown
    assert "/nowhere" in nowhere
    assert "/proc/self" in not_mounted


def test_mount_points_are_unescaped() -> None:
    line = r"36 35 98:0 / /mnt/a\040b\011c\134d rw,noatime master:1 - ext3 /dev/root rw"
    assert mounts.mount_points(line + "\n") == ["/mnt/a b\tc\\d"]


def test_a_user_namespace_of_one_user() -> None:
    def unprivileged() -> tuple[int, int, str]:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            process.set_dumpable(True)  # else /proc/self stays root's
        uid, gid = os.geteuid(), os.getegid()
        namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET)
        namespaces.write_id_maps("self", f"0 {uid} 1", f"0 {gid} 1", deny_setgroups=True)
        with open("/proc/self/setgroups") as file:
            return os.getuid(), os.getgid(), file.read().strip()

    assert forked.run(unprivileged) == (0, 0, "deny")


def test_a_refused_namespace_says_which() -> None:
    def refused() -> str:
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            namespaces.unshare(namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC)
        except OSError as error:
            return str(error)
        return ""

    assert "net, ipc namespace" in forked.run(refused)
