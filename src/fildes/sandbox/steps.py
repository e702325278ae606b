"""The steps of a confinement. Each can be printed, compared and tested without being taken; `execute` takes it, for
good, in the process that is to be confined. What exists only while it runs (descriptors) is in the `Room`.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fildes.kernel import landlock, mounts, namespaces, process, seccomp, vdso
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import send_with_fds
from fildes.sandbox.view import Entry

CONTROL: Final = 3  # the number under which the program finds its control socket


class Say(Protocol):
    def __call__(self, word: str, fds: Sequence[int] = (), **more: Any) -> None:
        """Tell whoever ordered this: a word, what belongs to it, and descriptors (borrowed)."""
        ...


@dataclass
class Room:
    """What steps share. `control` moves when the descriptors are arranged; `say(word, fds)` tells whoever ordered.
    `confined` is a message, ready to be sent: see Filter.
    """

    control: int
    log: int
    program: bytes
    cgroup: Cgroup | None
    say: Say
    confined: bytes


class Step(Protocol):
    def describe(self) -> str:
        """One line, for a person."""
        ...

    def execute(self, room: Room) -> None:
        """Raises OSError, with what was asked."""
        ...


@dataclass(frozen=True)
class JoinCgroup:
    limits: str

    def describe(self) -> str:
        return f"a cgroup of its own: {self.limits}" if self.limits else "no cgroup: none is delegated; no limits"

    def execute(self, room: Room) -> None:
        if room.cgroup is not None:
            room.cgroup.attach(os.getpid())


@dataclass(frozen=True)
class Separate:
    """New namespaces; a PID namespace is for the children. With CLONE_NEWUSER, our one user is root in it."""

    flags: int

    def describe(self) -> str:
        return f"new namespaces: {', '.join(namespaces.names(self.flags))}"

    def execute(self, room: Room) -> None:
        uid, gid = os.geteuid(), os.getegid()
        namespaces.unshare(self.flags)
        if self.flags & namespaces.CLONE_NEWUSER:
            # The files of /proc/self are root's in a process that is not dumpable, as daemons are not (proc(5)).
            process.set_dumpable(True)
            namespaces.write_id_maps("self", f"0 {uid} 1", f"0 {gid} 1", deny_setgroups=True)
            process.set_dumpable(False)


@dataclass(frozen=True)
class AwaitTracer:
    def describe(self) -> str:
        return "the vDSO is hidden from the program by its launcher, at its exec"

    def execute(self, room: Room) -> None:
        vdso.traceme()


@dataclass(frozen=True)
class OwnSession:
    hostname: str

    def describe(self) -> str:
        return f"a session of its own, host name {self.hostname}"

    def execute(self, room: Room) -> None:
        os.setsid()
        socket.sethostname(self.hostname)


@dataclass(frozen=True)
class EnterView:
    """A tmpfs root, read-only once it is made, with `entries` in it; the old root goes. `mountpoint`: any directory."""

    mountpoint: str
    entries: tuple[Entry, ...]
    cwd: str = "/"

    def describe(self) -> str:
        return "\n".join(["a view of files, and nothing of the old one:", *(f"  {e.describe()}" for e in self.entries)])

    def execute(self, room: Room) -> None:
        os.umask(0o022)  # it is read by another user than makes it
        mounts.make_private("/")
        with mounts.new_filesystem("tmpfs", {"mode": "0755", "size": "4m"}, mounts.MOUNT_ATTR_NOSUID) as root:
            mounts.move_mount(root.fileno(), mounts.AT_FDCWD, self.mountpoint)
            for entry in self.entries:
                entry.make(root.fileno())
            mounts.set_attributes(root.fileno(), mounts.MOUNT_ATTR_RDONLY, recursive=False)
            os.fchdir(root.fileno())
        mounts.pivot_root(".", ".")
        mounts.detach(".")
        os.chdir(self.cwd)


@dataclass(frozen=True)
class ArrangeDescriptors:
    def describe(self) -> str:
        return f"descriptors: 0 /dev/null, 1 and 2 the log, {CONTROL} the control socket; every other one is closed"

    def execute(self, room: Room) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        # Moved above first, so that no dup2 below overwrites what a later one needs.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, CONTROL + 1) for fd in (null, room.log, room.control)]
        for number, fd in ((0, high[0]), (1, high[1]), (2, high[1]), (CONTROL, high[2])):
            os.dup2(fd, number)
        room.control = CONTROL
        process.close_range(CONTROL + 1)


@dataclass(frozen=True)
class LimitResources:
    limits: tuple[tuple[str, int], ...]

    def describe(self) -> str:
        return "limits of the process: " + ", ".join(f"{name.lower()} {value}" for name, value in self.limits)

    def execute(self, room: Room) -> None:
        for name, value in self.limits:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


@dataclass(frozen=True)
class DenyOutward:
    """Landlock, as far as this kernel has it."""

    networks: int
    scopes: int

    def describe(self) -> str:
        words = ["no TCP"] * bool(self.networks) + ["no signals and no abstract sockets outward"] * bool(self.scopes)
        return f"Landlock: {', '.join(words)}" if words else "no Landlock: this kernel's has none of what is needed"

    def execute(self, room: Room) -> None:
        landlock.restrict(self.networks, self.scopes)


@dataclass(frozen=True)
class GiveUpPrivileges:
    """`uid` None: one's own. Always: no capabilities, no-new-privs."""

    uid: int | None

    def describe(self) -> str:
        who = "the one user that there is" if self.uid is None else f"uid and gid {self.uid}, no other groups"
        return f"{who}; no capabilities; no-new-privs"

    def execute(self, room: Room) -> None:
        process.set_no_new_privs()
        if self.uid is not None:
            process.become(self.uid, self.uid)
        process.drop_capabilities()
        os.umask(0o077)


@dataclass(frozen=True)
class Filter:
    profile: str

    def describe(self) -> str:
        return f"seccomp profile {self.profile}, its listener with the orchestrator"

    def execute(self, room: Room) -> None:
        # Until the listener is there, nobody answers a call that waits for one. Reading a clock is such a call where
        # the vDSO can't (on a machine whose TSC is not stable), and Python 3.11 reads one for each lock that it takes:
        # for the first json.dumps, say.
        gc.disable()
        listener = seccomp.install(room.program, listener=True)
        if listener is None:
            raise OSError("seccomp gave no listener")
        with listener:
            send_with_fds(room.control, room.confined, [listener.fileno()])


@dataclass(frozen=True)
class Exec:
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"exec: {' '.join(self.arguments)}"

    def execute(self, room: Room) -> None:
        os.execve(self.arguments[0], list(self.arguments), dict(self.environment))
