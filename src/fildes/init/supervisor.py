"""init's loop: starts the daemons, keeps them running, ends them in order, hands all it holds to its own successor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import Final

from fildes.init import manager, policy, spawn
from fildes.init.boxes import Box, Boxes
from fildes.init.channel import say
from fildes.init.child import Child, adopt
from fildes.init.ledger import Ledger
from fildes.init.table import Daemon
from fildes.init.upgrade import Upgrade
from fildes.kernel.fds import Fd, send_with_fds
from fildes.kernel.loop import EPOLLIN, Loop, Timer
from fildes.kernel.process import pidfd_open
from fildes.wire import store as wire

CLOSING_TIME: Final = 2.4  # seconds for all daemons together; then everything is killed
ATTEMPTS: Final = 3  # of a daemon to become ready, in a node that has never served
READY_TIME: Final = 10.0  # seconds after which a daemon that is not ready is worth a sentence
SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    def __init__(self, ledger: Ledger, table: tuple[Daemon, ...], fds: dict[str, Fd], boxes: Boxes) -> None:
        self.loop = Loop()
        self.ledger = ledger
        self.fds = fds
        self.boxes = boxes
        self.served = ledger.served
        self.closing = False
        self.status = 0
        self._order: list[str] = []  # still to be ended
        self._rolling: list[str] = []  # still to be replaced
        self._ready_timer: Timer | None = None
        self.upgrade = Upgrade(self)
        self.children = adopt(self.loop, ledger, table)
        for child in self.children.values():
            self._listen_to(child)

    # — the whole of it —

    def run(self) -> int:
        """Until the node is closed; the exit status of `fildes up`. Everything is ended when it returns."""
        self.loop.signals(SIGNALS, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.loop.watch(self.fds["lifeline"].fileno(), EPOLLIN, lambda _: self.close("the process `fildes up` is gone"))
        self._ready_timer = self.loop.call_later(READY_TIME, self._say_who_is_late)
        self._reap()
        for child in self.children.values():
            if not child.pid:
                self._start(child)
        if self.ledger.rolling:
            self._rolling = list(self.children)
            self._roll()
        self.loop.run()
        return self.status

    def close(self, why: str, status: int = 0) -> None:
        """End the daemons, last started first, each given its time; then the loop."""
        if self.closing:
            return
        self.closing, self.status = True, status
        self._rolling.clear()
        self.loop.unwatch(self.fds["lifeline"].fileno())
        if status:
            say(why)
        self._order = policy.closing_order(list(self.children))
        self.loop.call_later(CLOSING_TIME, self.loop.stop)
        self._close_next()

    # — starting, ending —

    def _start(self, child: Child) -> None:
        child.timer = None
        child.ready = False
        child.started = self.loop.time()
        box = self.boxes.of(child.spec.name)
        if box is not None:
            box.clear()
        child.pid = spawn.start(child.spec, self._given(child, box))

    def _given(self, child: Child, box: Box | None) -> spawn.Given:
        spec = child.spec
        fds: dict[str, int] = {}
        if spec.directory:
            fds[spec.directory[0]] = self.fds[f"dir.{spec.name}"].fileno()
        if spec.sockets:
            fds |= {name: fd.fileno() for name, fd in self.fds.items() if name.startswith(spec.sockets)}
        if spec.all_channels:
            fds |= {f"channel.{name}": other.channel.bus.near.fileno() for name, other in self.children.items()}
        channel = child.channel
        uid_base = self.ledger.uid_base
        return spawn.Given(
            channel.bus.far.fileno(), channel.store.far.fileno(), fds, self.ledger.settings, uid_base, box
        )

    def _ended(self, child: Child, status: int) -> None:
        pid, child.pid, was_ready, child.ready = child.pid, 0, child.ready, False
        child.channel.forget_answers()
        if child.timer:
            child.timer.cancel()
            child.timer = None
        if self.closing:
            self._close_next()
            return
        child.restarts += 1
        if child.replaced:
            child.replaced = False
            self._start(child)
            return
        spec = child.spec
        verdict = policy.after_end(
            child.record,
            started=child.started,
            now=self.loop.time(),
            clean=status == 0,
            restart=spec.restart,
            intensity=spec.intensity,
            period=spec.period,
        )
        child.record = verdict.record
        text = f"{spec.name} (pid {pid}) ended {policy.describe_status(status)}"
        if verdict.after is None:
            say(f"{text}; it is not started again")
        elif not self.served and not was_ready and len(verdict.record.ends) >= ATTEMPTS:
            self.close(f"{text}, {ATTEMPTS} times in a row: this node can't start; the reason is above", 1)
        elif not verdict.exceeded:
            say(f"{text}; starting it again")
            self._start(child)
        else:
            text += f", more than {spec.intensity} times in {spec.period:g} s"
            say(f"{text}; trying again in {verdict.after:g} s")
            child.timer = self.loop.call_later(verdict.after, lambda: self._start(child))

    def _close_next(self) -> None:
        while self._order:
            child = self.children[self._order[0]]
            if child.timer:
                child.timer.cancel()
                child.timer = None
            if child.pid:
                break
            self._order.pop(0)
        else:
            self.loop.stop()
            return
        if child.ready:
            child.channel.tell(wire.Closing())
            child.timer = self.loop.call_later(child.spec.shutdown, lambda: child.signal(signal.SIGKILL))
        else:
            child.signal(signal.SIGKILL)

    # — being told —

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self.upgrade.begin()
        else:
            self.close("told to stop")

    def _reap(self) -> None:
        for pid in _dead_children():
            child = next((child for child in self.children.values() if child.pid == pid), None)
            if child is not None:
                _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            if child is not None:
                self._ended(child, status)
            elif not self.upgrade.checked(pid, status):
                for child in self.children.values():
                    if child.spec.hears_exits:
                        child.channel.tell(wire.Exited(pid, status))

    def _on_ready(self, child: Child) -> None:
        if not child.pid:
            return  # said by one that has died since
        child.ready = True
        if self._rolling and self._rolling[0] == child.spec.name:
            self._rolling.pop(0)
            self._roll()
        if not self.served and all(child.ready for child in self.children.values()):
            self.served = True
            if self._ready_timer:
                self._ready_timer.cancel()
            self.tell_keeper(manager.READY)

    def _say_who_is_late(self) -> None:
        if late := [child.spec.name for child in self.children.values() if not child.ready]:
            say(f"still not ready after {READY_TIME:g} s: {', '.join(late)}")

    # — new code —

    def _roll(self) -> None:
        """Replace the daemons one by one, the next when the one before is ready."""
        if not self._rolling:
            say("upgraded: every daemon runs the new code")
            self.tell_keeper(manager.UPGRADED)
            return
        child = self.children[self._rolling[0]]
        if not child.pid:
            return  # it is being started anyway: its being ready goes on from here
        child.replaced = True
        child.signal(signal.SIGTERM)
        child.timer = self.loop.call_later(child.spec.shutdown, lambda: child.signal(signal.SIGKILL))

    def tell_keeper(self, word: bytes) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it hangs, or is gone: the lifeline says so itself
            send_with_fds(self.fds["lifeline"].fileno(), word, flags=socket.MSG_DONTWAIT)

    def to_ledger(self) -> Ledger:
        """All of it, for the image that comes after this one."""
        daemons = {name: child.to_line() for name, child in self.children.items()}
        numbers = {name: fd.fileno() for name, fd in self.fds.items()}
        return self.ledger._replace(fds=numbers, served=self.served, rolling=True, daemons=daemons)

    def _listen_to(self, child: Child) -> None:
        child.channel.on_ready = lambda: self._on_ready(child)
        if child.spec.lists_daemons:
            child.channel.describe = self._describe
        child.channel.flush()

    def _describe(self, nonce: int, place: int) -> tuple[wire.Process, Fd | None] | None:
        children = list(self.children.values())
        if place >= len(children):
            return None
        child = children[place]
        pidfd = pidfd_open(child.pid) if child.pid else None
        return wire.Process(nonce, child.pid, child.restarts, child.state, child.spec.name), pidfd


def _dead_children() -> Iterator[int]:
    """The children that have ended, one by one; each has to be reaped before the next is asked for."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            yield ended.si_pid


def _kill_group(pid: int) -> None:
    """Kill what a dead daemon, not yet reaped, left in its process group; a cgroup, if there is one, catches more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
