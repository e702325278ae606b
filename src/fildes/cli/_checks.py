"""What this machine and this user allow: each check asks the kernel itself, in a child where it would change us."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import fildes


class Check(NamedTuple):
    """`lost`: what does not work without it. `remedy`: what to do about it. Both are said only when `ok` is false."""

    name: str
    ok: bool
    found: str
    lost: str
    remedy: str
    essential: bool = False


def run() -> Iterator[Check]:
    """All of them; a machine whose system calls are not known gets no further than the first."""
    machine = os.uname().machine
    known = machine in ("x86_64", "aarch64") and sys.maxsize > 2**32 and sys.platform == "linux"
    yield Check(
        "machine",
        known,
        f"{machine}, {platform.system()} {platform.release()}",
        "everything: there are no sandboxes for it",
        "use 64-bit Linux on x86_64 or aarch64",
        True,
    )
    if known:
        for group in (_interpreter, _confinement, _namespaces, _resources, _storage, _identity, _network):
            yield from group()


def _interpreter() -> Iterator[Check]:
    version = sys.version.split()[0]
    yield Check(
        "Python",
        sys.version_info >= (3, 12),
        f"{version} ({sys.executable})",
        "memory: an idle instance takes about twice as much on 3.11",
        "install Python 3.12 or newer and run scripts/setup.sh again; it takes the newest it finds",
    )
    for name, essential, lost in (
        ("msgspec", True, "everything: daemons talk through it"),
        ("uv", True, "publishing: it resolves what programs require"),
        ("uvloop", False, "speed of programs on asyncio"),
        ("wsproto", False, "WebSockets"),
    ):
        present = importlib.util.find_spec(name) is not None
        found = "installed" if present else "not installed"
        yield Check(name, present, found, lost, f"pip install {name}", essential)
    trap = Path(fildes.__file__).parent / "runtime" / "libfildes_trap.so"
    yield Check(
        "trap library",
        trap.exists(),
        "built" if trap.exists() else "not built",
        "files for C libraries in programs without the `files` grant; Python code is served all the same",
        "install a C compiler and run `make -C shim` (or scripts/setup.sh)",
    )


def _confinement() -> Iterator[Check]:
    from fildes.kernel import landlock, memfd, process, seccomp

    actions = {"notify": seccomp.RET_USER_NOTIF, "trap": seccomp.RET_TRAP, "errno": seccomp.RET_ERRNO}
    missing = [name for name, action in actions.items() if not seccomp.available(action)]
    yield Check(
        "seccomp",
        not missing,
        "filters, notifications and traps" if not missing else f"without {', '.join(missing)}",
        "everything: programs can't be confined",
        "use a kernel with CONFIG_SECCOMP_FILTER, 5.9 or newer; in a container, allow seccomp(2)",
        True,
    )
    abi = landlock.abi()
    yield Check(
        "Landlock",
        abi >= 6,
        f"ABI {abi}" if abi else "not there",
        "a second fence around TCP, signals and abstract sockets while a program loads (seccomp is the first)",
        "use Linux 6.12 or newer with landlock in its list of security modules (lsm=…,landlock)",
    )

    def sealed() -> str:
        memfd.sealed("fildes-doctor", b"x").close()
        return "sealed memfds"

    yield _tried(
        "memfd", sealed, "everything: snapshots and releases are handed over in them", "use Linux 3.17 or newer"
    )

    def held() -> str:
        process.pidfd_open(os.getpid()).close()
        process.close_range(1 << 20)
        return "pidfd_open and close_range"

    yield _tried("pidfd", held, "everything: processes can't be told apart safely", "use Linux 5.9 or newer")
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        attested = process.pass_credentials(one.fileno())
    yield Check(
        "SCM_PIDFD",
        attested,
        "the kernel attests senders by pidfd" if attested else "only by pid (SCM_CREDENTIALS)",
        "nothing; who an instance is takes one more check",
        "use Linux 6.5 or newer",
    )


def _namespaces() -> Iterator[Check]:
    from fildes.init import world
    from fildes.kernel import mounts, namespaces

    everything = (
        namespaces.CLONE_NEWNS
        | namespaces.CLONE_NEWPID
        | namespaces.CLONE_NEWNET
        | namespaces.CLONE_NEWIPC
        | namespaces.CLONE_NEWUTS
    )
    root = world.own_uids() is not None

    def separate() -> str:
        namespaces.unshare(everything | (0 if root else namespaces.CLONE_NEWUSER))
        return "with root's rights" if root else "in a user namespace"

    yield _tried(
        "namespaces",
        separate,
        "everything: a program can't be given a file tree of its own",
        "allow user namespaces: `sysctl user.max_user_namespaces=10000`, and where it is there "
        "`sysctl kernel.unprivileged_userns_clone=1` and `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; "
        "or run as root; in a container, start it with --privileged",
    )

    def own_tree() -> str:
        uid, gid = os.geteuid(), os.getegid()
        namespaces.unshare(everything | (0 if root else namespaces.CLONE_NEWUSER))
        if not root:
            namespaces.write_id_maps("self", f"{uid} {uid} 1", f"{gid} {gid} 1", deny_setgroups=True)
        mounts.make_private("/")
        mounts.new_filesystem("tmpfs", {}).close()
        child = os.fork()
        if child == 0:
            mounts.new_filesystem("proc", {}).close()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise OSError("no /proc of its own: parts of this machine's /proc are hidden, as in a container")
        return "tmpfs and proc"

    yield _tried(
        "mounts",
        own_tree,
        "everything: a program can't be given a file tree of its own",
        "use Linux 5.12 or newer; in a container, start it with --privileged, or with "
        "`--security-opt systempaths=unconfined`",
    )


def _resources() -> Iterator[Check]:
    from fildes.kernel import cgroups

    hierarchy = cgroups.detect()
    controllers = ", ".join(sorted(hierarchy.controllers)) if hierarchy else ""
    yield Check(
        "cgroups",
        hierarchy is not None and {"memory", "pids", "cpu"} <= hierarchy.controllers,
        f"{type(hierarchy).__name__.lower()}: {controllers}" if hierarchy else "none that this user may use",
        "limits: memory, cpu and tasks in [limits] are not held",
        "run as root, or in a delegated cgroup: `systemd-run --user --scope -p Delegate=yes fildes up …`",
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Check(
        "descriptors",
        hard >= 8192,
        f"at most {hard} a process",
        "connections at a time, and releases",
        "raise the hard limit: `ulimit -Hn 65536`, or LimitNOFILE= of the unit that starts it",
    )


def _storage() -> Iterator[Check]:
    from fildes.kernel import loops
    from fildes.sandbox import tree

    usable, maker = loops.usable(), tree.maker()
    found = "file systems in files" if usable and maker else "plain folders" if os.geteuid() else "none"
    missing = [] if usable else ["no loop devices for this user"]
    missing += [] if maker else ["no mke2fs"]
    yield Check(
        "trees",
        usable and maker is not None,
        found + (f": {', '.join(missing)}" if missing else ""),
        "the quota of trees that last (`files` with `path`): without root they may fill the disk; root has none",
        "run as root, with loop devices, and install e2fsprogs",
    )


def _identity() -> Iterator[Check]:
    from fildes.init import world

    base = world.own_uids()
    yield Check(
        "uids",
        base is not None,
        f"{base} to {base + world.RANGE - 1} for daemons and services" if base else "one: everything runs as this user",
        "more than one owner, and the second fence that different uids are between services",
        "run as root",
    )


def _network() -> Iterator[Check]:
    from fildes.kernel import sockets

    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        refuses = sockets.refuse_rights(one.fileno())
    yield Check(
        "SO_PASSRIGHTS",
        refuses,
        "there" if refuses else "not there",
        "one fence: a service may push descriptors into another that takes its streams; they are closed on arrival",
        "use Linux 6.16 or newer",
    )


def _tried(name: str, attempt: Callable[[], str], lost: str, remedy: str) -> Check:
    """An essential check: `attempt` is made in a child and says what was found, or raises OSError."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, attempt().encode())
            status = 0
        except OSError as error:
            os.write(writer, (error.strerror or str(error)).encode()[:4096])
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as file:
        found = file.read()
    ok = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return Check(name, ok, found or "it crashed", lost, remedy, True)
