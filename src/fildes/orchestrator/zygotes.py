"""One zygote as the orchestrator holds it: its pidfd, its control socket, its warden, and the ratchet."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fildes.daemon.peer import Refused
from fildes.kernel import fds as fds_module
from fildes.kernel import mounts, namespaces, notify, process
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, Truncated, receive_with_fds, send_with_fds, set_blocking
from fildes.kernel.loop import EPOLLIN, Loop, Promise
from fildes.orchestrator import plan
from fildes.orchestrator.children import ChildFailed, Exits, in_child, reap
from fildes.orchestrator.warden import Warden
from fildes.sandbox import enter
from fildes.sandbox.plan import Plan
from fildes.sandbox.steps import CONTROL
from fildes.wire import zygote as wire

_WORDS: Final = {"born": 1, "confined": 1, "hidden": 0, "loaded": 0}  # in their order, with their descriptors
_PATIENCE: Final = 64  # messages that a zygote may send, and as many again for each start: one that floods us ends


@dataclass(frozen=True)
class Launched:
    """What a zygote is launched with. `log` is borrowed."""

    plan: Plan
    program: bytes
    log: int
    cgroup: Cgroup | None


class Zygote:
    """Owns every descriptor of one zygote. `on_exited(message)` and `on_gone()` tell what happens to it later."""

    def __init__(self, loop: Loop, control: Fd, cgroup: Cgroup | None, exits: Exits) -> None:
        self._loop = loop
        self._exits = exits
        self._control = control
        self.cgroup = cgroup
        self._service = ""
        self._how: Promise[str] = Promise(loop)  # it ended
        self.pid = -1
        self.status: int | None = None  # how it ended, waitpid(2)
        self.held: dict[str, str] = {}  # what it was given: name of the description → why
        self.threads = 1  # tasks that the program had when it said that it is loaded
        self.phases: dict[str, float] = {}
        self.secrets = ""  # the edition of those that it could read while it loaded
        self.outdated = False  # they are others now
        self._pidfd: Fd | None = None
        self._warden: Warden | None = None
        self._said: dict[str, Promise[tuple[dict[str, Any], list[Fd]]]] = {}
        self._patience = _PATIENCE
        self.on_exited: Callable[[dict[str, Any]], object] = lambda _: None
        self.on_gone: Callable[[], object] = lambda: None
        set_blocking(control.fileno(), False)
        loop.watch(control.fileno(), EPOLLIN, self._on_message)

    # — beginning —

    @classmethod
    async def load(
        cls,
        loop: Loop,
        launched: Launched,
        settings: dict[str, Any],
        fds: dict[str, int],
        exits: Exits,
        limit: float,
        born: Callable[[Fd], object],
    ) -> Zygote:
        """Launch one and have it load its program within `limit` seconds; `born` is shown its pidfd at once. Raises
        Refused with the tenant's error; nothing is left then. `fds` are borrowed.
        """
        began = time.monotonic()
        helper, control = enter.launch(
            launched.plan, launched.program, log=launched.log, cgroup=launched.cgroup, encode=wire.encode
        )
        reap(loop, helper)
        zygote = cls(loop, control, launched.cgroup, exits)
        zygote._service = str(settings["service"])
        timer = loop.call_later(limit, lambda: zygote._fail_all(f"it did not finish loading within {limit:g} s"))
        try:
            bearing, confined, hidden, loaded = (zygote._expect(what) for what in _WORDS)
            _, [pidfd] = await bearing
            born(pidfd)
            zygote._hold(pidfd)
            _, [listener] = await confined
            notify.set_sync_wake_up(listener.fileno())
            zygote._warden = Warden(loop, listener, opened=True)  # its exec is the first call it lets through
            message, _ = await hidden
            zygote.held = {fds_module.name(fd): f"runtime: {what}" for what, fd in fds.items()}
            zygote.held[os.readlink(f"/proc/{zygote.pid}/fd/{CONTROL}")] = "runtime: orders from the orchestrator"
            zygote.phases["launch"] = (time.monotonic() - began) * 1e3
            zygote._send(
                {"do": "load", "settings": {**settings, "vdso": message["vdso"]}, "fds": list(fds)}, list(fds.values())
            )
            message, _ = await loaded
            zygote.phases |= wire.phases(message)
        except BaseException:  # whatever it was: nothing may run on with its gate open
            zygote.kill()
            zygote.close()
            raise
        finally:
            timer.cancel()
        return zygote

    @classmethod
    def adopt(
        cls, loop: Loop, control: Fd, pidfd: Fd, listener: Fd, cgroup: Cgroup | None, threads: int, exits: Exits
    ) -> Zygote:
        """One that lived through a restart of this daemon, behind the ratchet already."""
        zygote = cls(loop, control, cgroup, exits)
        zygote.threads = threads
        zygote._hold(pidfd)
        zygote._warden = Warden(loop, listener, opened=False)
        return zygote

    def _hold(self, pidfd: Fd) -> None:
        self._pidfd = pidfd
        self.pid = process.pidfd_pid(pidfd.fileno())
        self._loop.watch(pidfd.fileno(), EPOLLIN, lambda _: self._gone())

    # — the ratchet —

    async def ratchet(self, *, keep_files: bool) -> None:
        """Refuse what is for loading only from now on, end what the program left running, detach its files.

        With `keep_files` (the `files` grant) the view stays.
        """
        if self._warden is None or self._pidfd is None:
            raise Refused("warm", "it ended while it loaded")
        began = time.monotonic()
        self._warden.close_gate()
        pidfd = self._pidfd.fileno()
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        self.threads = len(os.listdir(f"/proc/{self.pid}/task"))
        points = [] if keep_files else _mounts_of(self.pid)
        if process.pidfd_pid(pidfd) != self.pid:  # its number may be somebody else's, and so what was just read
            raise Refused("warm", "it ended while it loaded")
        _end_descendants(self.pid, namespace)
        try:
            await in_child(self._loop, lambda: _detach_all(pidfd, points))
        except ChildFailed as error:
            raise Refused(
                "warm", f"its files could not be detached after loading: {error}; see: fildes doctor"
            ) from error
        _end_descendants(self.pid, namespace)  # a fork that was let through just before the gate closed
        if process.has_ended(pidfd):
            shown = f"what it printed shows: fildes logs {self._service}"
            raise Refused("warm", f"it ended when it had loaded: {await self._how}; {shown}")
        self.phases["ratchet"] = (time.monotonic() - began) * 1e3

    # — orders —

    def start(self, instance: str, fds: list[tuple[str, int]], command: dict[str, Any] | None = None) -> None:
        """Order one instance; `fds` (borrowed) by name. A program with threads becomes the instance itself.

        With a `command` it runs that instead of serving (wire/zygote.py)."""
        if self._warden is None:
            raise Refused("warm", "the zygote is gone")
        fork = self.threads == 1
        if fork:
            self._warden.allow_one_fork()
        self._patience += _PATIENCE
        names, given = [name for name, _ in fds], [fd for _, fd in fds]
        if command is None:
            send_with_fds(self._control.fileno(), wire.encode_start(instance, names, fork=fork), given)
        else:
            order = {"do": "start", "instance": instance, "fork": fork, "fds": names, "command": command}
            self._send(order, given)

    def kill(self) -> None:
        """PID 1 of its namespace: everything of the release ends with it."""
        if self._pidfd is not None and not self._pidfd.closed:
            try:
                process.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)
            except ProcessLookupError:
                return

    def signal(self, number: int) -> None:
        """Only SIGKILL, SIGSTOP and SIGCONT reach the first process of a PID namespace whatever it does."""
        if self._pidfd is not None and not self._pidfd.closed:
            process.pidfd_send_signal(self._pidfd.fileno(), number)

    def close(self) -> None:
        if not self._control.closed:
            self._loop.unwatch(self._control.fileno())
            self._control.close()
        if self._warden is not None:
            self._warden.close()
        if self._pidfd is not None and not self._pidfd.closed:
            self._loop.unwatch(self._pidfd.fileno())
            self._pidfd.close()
        self._fail_all("it ended while it loaded")

    @property
    def gone(self) -> bool:
        """Whether `close` was called."""
        return self._control.closed

    @property
    def descriptors(self) -> list[int]:
        """Borrowed: pidfd, control, listener, in the order in which `adopt` takes them. Raises Refused."""
        if self._pidfd is None or self._warden is None or self._warden.ended:
            raise Refused("warm", "it ended when it had loaded")
        return [self._pidfd.fileno(), self._control.fileno(), self._warden.listener]

    # — what it says —

    def _expect(self, what: str) -> Promise[tuple[dict[str, Any], list[Fd]]]:
        promise: Promise[tuple[dict[str, Any], list[Fd]]] = Promise(self._loop)
        self._said[what] = promise
        return promise

    def _fail_all(self, text: str, detail: str = "") -> None:
        said, self._said = self._said, {}
        for promise in said.values():
            promise.fail(Refused("warm", text if not detail else f"{text}\n{detail}"))

    def _on_message(self, _: int) -> None:
        self._patience -= 1
        if self._patience < 0:
            self._loop.unwatch(self._control.fileno())
            self.kill()
            return
        try:
            received = receive_with_fds(self._control.fileno(), wire.MAX_DATAGRAM, 2)
        except (BlockingIOError, Truncated):
            return
        except ConnectionResetError:
            received = None
        if received is None or not received.data:
            self._loop.unwatch(self._control.fileno())
            if self._pidfd is None:
                self._fail_all("it ended before it was confined")
            return
        try:
            message = wire.decode(received.data)
        except wire.Malformed:
            received.close()
            return
        kind = wire.text(message, "is", 16)
        if kind == "failed":
            received.close()
            self._fail_all(wire.text(message, "error", 4096), wire.text(message, "detail", 16384))
        elif kind == "exited":
            received.close()
            self.on_exited(message)
        elif kind in self._said and len(received.fds) == _WORDS[kind]:
            self._said.pop(kind).resolve((message, received.fds))
        else:
            received.close()

    def _gone(self) -> None:
        if self._pidfd is not None and not self._pidfd.closed:
            self._loop.unwatch(self._pidfd.fileno())
        self._loop.spawn(self._tell_how())

    async def _tell_how(self) -> None:
        self.status = await self._exits.of(self.pid)
        oom_kills = self.cgroup.oom_kills() if self.cgroup is not None else 0
        how = plan.exit_sentence(self.status, oom_kills) if self.status is not None else "nobody knows how"
        self._how.resolve(how)
        self._fail_all(f"it ended while it loaded: {how}; what it printed shows: fildes logs {self._service}")
        self.on_gone()

    def _send(self, message: dict[str, Any], fds: list[int]) -> None:
        send_with_fds(self._control.fileno(), wire.encode(message), fds)


def _mounts_of(pid: int) -> list[str]:
    """Every mount point of the view but its root, innermost first."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = mounts.mount_points(file.read())
    return [point for point in reversed(points) if point != "/"]


def _detach_all(pidfd: int, points: list[str]) -> None:
    """In a child: enter the zygote's mount namespace and detach everything."""
    own = os.readlink("/proc/self/ns/user")
    theirs = os.readlink(f"/proc/{process.pidfd_pid(pidfd)}/ns/user")
    namespaces.setns(pidfd, namespaces.CLONE_NEWNS | (0 if own == theirs else namespaces.CLONE_NEWUSER))
    for point in points:
        mounts.detach(point)


def _end_descendants(pid: int, namespace: str) -> None:
    """Kill what the program started while it loaded and left running: all of it in its PID `namespace`.

    By pidfd, looked at once more: a number may be another process's by now.
    """
    found = [pid]
    for parent in found:  # grows: not by recursion, for a program can nest deeper than our stack
        found += _children(parent)
    for child in reversed(found[1:]):
        with contextlib.suppress(OSError), process.pidfd_open(child) as pidfd:
            if os.readlink(f"/proc/{child}/ns/pid") == namespace:
                process.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children += [int(number) for number in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return children
    return children
