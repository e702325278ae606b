"""A release's zygote: from nothing to the exec of its interpreter, in its own namespaces, view, uid and filter.

Three processes take part:

    orchestrator ── fork ──► A ── fork ──► B ── exec ──► zygote

A makes the namespaces, joins the cgroup, forks B into the new PID namespace, sends a pidfd of it, hides the vDSO at
its exec, and ends: so B, which is PID 1 of its namespace, becomes a child of init, and its death takes every process
of the release with it.
B makes the view, gives up everything, installs the load filter and sends its listener; its exec is the first call
that the orchestrator answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import traceback
from dataclasses import dataclass
from typing import Final, NoReturn

from fildes.kernel import fds, landlock, mounts, namespaces, process, seccomp, vdso
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, send_with_fds, seqpacket_pair
from fildes.orchestrator import view
from fildes.wire import zygote as wire

CONTROL: Final = 3  # the number under which the zygote finds its control socket
_ENVIRONMENT: Final = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}


@dataclass(frozen=True)
class Order:
    """What a zygote is started with. Descriptors are borrowed."""

    tree: str
    mountpoint: str  # a directory on which the view is mounted, in the new mount namespace only
    uid: int | None  # None without root: there is one uid
    log: int
    load_filter: bytes
    cgroup: Cgroup | None


def launch(order: Order) -> tuple[int, Fd, str]:
    """Fork A. Returns its pid, to be reaped; the orchestrator's end of the control socket, on which come
    {"is": "born"} + a pidfd of B, {"is": "confined"} + its listener, and what wire/zygote.py says, or a failure;
    and the name of the zygote's end.
    """
    ours, theirs = seqpacket_pair()
    name = fds.name(theirs.fileno())
    pid = os.fork()
    if pid == 0:
        _in_child(theirs.fileno(), _make_namespaces, order)
    theirs.close()
    return pid, ours, name


def _in_child(control: int, work: object, order: Order) -> NoReturn:
    """Run `work(control, order)`, tell the orchestrator if it fails, and never return."""
    try:
        signal.set_wakeup_fd(-1)
        work(control, order)  # type: ignore[operator]
    except BaseException as error:
        message = {
            "is": "failed",
            "error": f"its confinement could not be made: {error}",
            "detail": traceback.format_exc(),
        }
        for number in (CONTROL, control):  # where it is depends on how far B came
            with contextlib.suppress(OSError):
                send_with_fds(number, wire.encode(message))
                break
        os._exit(71)  # EX_OSERR
    os._exit(0)


def _make_namespaces(control: int, order: Order) -> None:
    """What A does."""
    if order.cgroup is not None:
        order.cgroup.attach(os.getpid())
    flags = (
        namespaces.CLONE_NEWNS
        | namespaces.CLONE_NEWPID
        | namespaces.CLONE_NEWNET
        | namespaces.CLONE_NEWIPC
        | namespaces.CLONE_NEWUTS
    )
    if order.uid is None:
        uid, gid = os.geteuid(), os.getegid()
        namespaces.unshare(flags | namespaces.CLONE_NEWUSER)
        namespaces.write_id_maps(os.getpid(), f"0 {uid} 1", f"0 {gid} 1", deny_setgroups=True)
    else:
        namespaces.unshare(flags)
    pid = os.fork()
    if pid == 0:
        _in_child(control, _become_zygote, order)
    with process.pidfd_open(pid) as pidfd:
        send_with_fds(control, wire.encode({"is": "born"}), [pidfd.fileno()])
    vdso.hide_vdso_at_exec(pid)


def _become_zygote(control: int, order: Order) -> None:
    """What B does; returns only by raising."""
    vdso.traceme()
    os.setsid()
    socket.sethostname("fildes")
    os.umask(0o022)  # the view is read by another uid than makes it
    _enter_view(order)
    _arrange_descriptors(control, order.log)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    process.set_no_new_privs()
    landlock.restrict(landlock.networks(), landlock.scopes())
    if order.uid is not None:
        process.become(order.uid, order.uid)
    process.drop_capabilities()
    os.umask(0o077)
    listener = seccomp.install(order.load_filter, listener=True)
    if listener is None:
        raise OSError("seccomp gave no listener")
    with listener:
        send_with_fds(CONTROL, wire.encode({"is": "confined"}), [listener.fileno()])
    python = view.interpreter()
    main = f"{view.PACKAGE}/zygote/__main__.py"
    os.execve(python, [python, "-I", "-S", "-B", main, str(CONTROL)], _ENVIRONMENT)


def _enter_view(order: Order) -> None:
    mounts.make_private("/")
    with mounts.new_filesystem("tmpfs", {"mode": "0755", "size": "4m"}, mounts.MOUNT_ATTR_NOSUID) as root:
        mounts.move_mount(root.fileno(), mounts.AT_FDCWD, order.mountpoint)
        for entry in view.layout(order.tree):
            _make(entry, root.fileno())
        mounts.set_attributes(root.fileno(), mounts.MOUNT_ATTR_RDONLY, recursive=False)
        os.fchdir(root.fileno())
    mounts.pivot_root(".", ".")
    mounts.detach(".")
    os.chdir("/app")


def _make(entry: view.Entry, root: int) -> None:
    path = entry.path.lstrip("/")
    if isinstance(entry, view.Directory):
        _make_directories(path, root)
        return
    _make_directories(os.path.dirname(path), root)
    if isinstance(entry, view.Link):
        os.symlink(entry.target, path, dir_fd=root)
    elif isinstance(entry, view.File):
        with Fd.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444, dir_fd=root) as fd:
            os.write(fd.fileno(), entry.content.encode())
    elif isinstance(entry, view.Bind):
        flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
        with mounts.open_tree(entry.source, flags) as tree:
            attributes = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID
            mounts.set_attributes(tree.fileno(), attributes | (0 if entry.devices else mounts.MOUNT_ATTR_NODEV))
            if os.path.isdir(entry.source):
                _make_directories(path, root)
            else:
                Fd.open(path, os.O_WRONLY | os.O_CREAT, 0o444, dir_fd=root).close()
            mounts.move_mount(tree.fileno(), root, path)
    else:
        attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
        attributes |= mounts.MOUNT_ATTR_RDONLY if entry.read_only else 0
        with mounts.new_filesystem(entry.type, dict(entry.options), attributes) as filesystem:
            _make_directories(path, root)
            mounts.move_mount(filesystem.fileno(), root, path)


def _make_directories(path: str, root: int) -> None:
    made = ""
    for part in path.split("/"):
        if part:
            made = f"{made}/{part}" if made else part
            try:
                os.mkdir(made, 0o755, dir_fd=root)
            except FileExistsError:
                continue


def _arrange_descriptors(control: int, log: int) -> None:
    """0 is /dev/null, 1 and 2 the log, 3 the control socket; everything else closes."""
    null = os.open("/dev/null", os.O_RDWR)
    # Moved above 3 first, so that no dup2 below overwrites what a later one needs.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, CONTROL + 1) for fd in (null, log, control)]
    for number, fd in ((0, high[0]), (1, high[1]), (2, high[1]), (CONTROL, high[2])):
        os.dup2(fd, number)
    process.close_range(CONTROL + 1)
