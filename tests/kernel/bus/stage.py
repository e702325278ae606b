"""A stage for daemons: their real `main` in a forked child, under its real profile, with a small init around it.

The test is every other daemon: it has their ends of the channels to the bus. All runs on one loop, in the test's own
thread; nothing sleeps, everything waits for a condition with a deadline.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from fildes.bus.routes import NUMBERS
from fildes.daemon.peer import Asked, Peer
from fildes.daemon.start import Inheritance, run
from fildes.init.deposits import Deposits
from fildes.kernel import memfd, process
from fildes.kernel.fds import Fd, Truncated, close_all, receive_with_fds, send_with_fds, seqpacket_pair
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.sdk.program import Program
from fildes.wire import bus as wire
from fildes.wire import store
from fildes.wire.catalogue import Grant, Rights, RightsDelta, Snapshot, Subscribe
from fildes.wire.conveyor import Introduction, decode_inward
from fildes.wire.orchestrator import GetConveyor

PATIENCE = 20.0  # seconds; nothing here takes one


class Gone(AssertionError):
    """Something did not happen in time."""


class Daemon:
    """One forked daemon; its channel and its deposits outlive it."""

    def __init__(self, stage: Stage, name: str, module: str, fds: dict[str, Fd], settings: dict[str, Any]) -> None:
        self.stage, self.name, self.module, self.settings = stage, name, module, settings
        self.fds = fds
        self.store_near, self.store_far = seqpacket_pair()
        os.set_blocking(self.store_near.fileno(), False)
        self.deposits = Deposits(4096, 8192)
        self.ready = 0
        self.pid = 0
        self.keep: frozenset[int] = frozenset()  # capabilities(7)
        stage.loop.watch(self.store_near.fileno(), EPOLLIN, lambda _: self._serve())

    def start(self) -> None:
        """Fork it, and wait until it says that it is ready."""
        before = self.ready
        channel = self.stage.near[self.name]
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                given = {channel.fileno(), self.store_far.fileno(), *(fd.fileno() for fd in self.fds.values())}
                process.close_all_but({0, 1, 2, *given})
                sys.stderr = os.fdopen(2, "w", closefd=False)  # pytest's own went with its descriptors
                fds = {name: Fd(fd.take()) for name, fd in self.fds.items()}
                given_all = Inheritance(self.name, channel, self.store_far, fds, self.settings, keep=self.keep)
                status = run(self.module, given_all)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        self.stage.until(lambda: self.ready > before, f"{self.name} to be ready")

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def restart(self) -> None:
        self.kill()
        self.start()

    def open_fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def alive(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def _serve(self) -> None:
        near = self.store_near.fileno()
        try:
            received = receive_with_fds(near, store.MAX_FRAME, store.MAX_FDS)
        except Truncated as error:
            raise AssertionError(f"{self.name} sent init too much") from error
        frame = store.decode_to_init(received.data)
        if isinstance(frame, store.Deposit):
            self.deposits.put(frame.key, frame.blob, received.fds)
        elif isinstance(frame, store.Drop):
            self.deposits.drop(frame.key)
        elif isinstance(frame, store.Ready):
            self.ready += 1
        elif isinstance(frame, store.Collect):
            page, more = self.deposits.page(frame.after, store.PAGE)
            for entry in page:
                item = store.Item(frame.nonce, entry.serial, entry.key, entry.blob)
                send_with_fds(near, store.encode(item), [fd.fileno() for fd in entry.fds])
            last = page[-1].serial if page else frame.after
            send_with_fds(near, store.encode(store.End(frame.nonce, last, more)))

    def close(self) -> None:
        self.kill()
        self.stage.loop.unwatch(self.store_near.fileno())
        self.deposits.close()
        close_all((self.store_near, self.store_far, *self.fds.values()))


class Stage:
    """`peers[name]` is the test as that daemon. With `bus`, the bus runs; without, `peers["bus"]` speaks to `near`."""

    def __init__(self) -> None:
        self.loop = Loop(on_error=self._error)
        self.errors: list[BaseException] = []
        self.near: dict[str, Fd] = {}  # the daemons' own ends
        self.far: dict[str, Fd] = {}  # the bus's
        self.peers: dict[str, Peer] = {}
        self.daemons: list[Daemon] = []
        self.bus: Daemon | None = None
        self.rights: list[Rights] = []
        self.number = 1
        self.conveyors: dict[str, tuple[Fd, Fd]] = {}  # release → (sending end, receiving end)
        self.log: list[str] = []
        self.instances = 0
        self.programs: list[Program] = []

    def _error(self, error: BaseException) -> None:
        self.errors.append(error)

    # — time —

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Turn the loop until `condition()`; fails after PATIENCE."""
        end = self.loop.time() + PATIENCE
        while not condition():
            if self.loop.time() >= end:
                raise Gone(f"waited {PATIENCE} s for {what}; errors: {self.errors}")
            look_again = self.loop.call_later(0.005, lambda: None)  # it may be about what no descriptor here tells
            self.loop.turn()
            look_again.cancel()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        task = self.loop.spawn(coroutine)
        task.when_done(lambda: None)  # its error is raised here, not reported by the loop
        self.until(lambda: task.done, "an answer")
        return task.result()

    # — who is there —

    def channels(self, names: Iterable[str]) -> None:
        for name in names:
            self.near[name], self.far[name] = seqpacket_pair()

    def start_bus(self, actors: Iterable[str] = ("catalogue", "orchestrator", "shared", "debug", "log")) -> Daemon:
        """The bus in a child, and the test as `actors`; the catalogue and the orchestrator answer as they should."""
        names = list(dict.fromkeys(["bus", *actors, *(daemon.name for daemon in self.daemons)]))
        self.channels(name for name in names if name not in self.near)
        for name in actors:
            if name not in self.peers and not any(daemon.name == name for daemon in self.daemons):
                self.peers[name] = Peer(self.loop, self.near[name])
        if "catalogue" in self.peers:
            self.peers["catalogue"].on("catalogue.subscribe", Subscribe, self._subscribe)
        if "orchestrator" in self.peers:
            self.peers["orchestrator"].on("orchestrator.conveyor", GetConveyor, self._conveyor)
        if "log" in self.peers:
            self.peers["log"].on_event("log.append", msgspec.Raw, lambda asked: self.log.append(asked.sender))
        fds = {f"channel.{name}": fd for name, fd in self.far.items()}
        self.bus = Daemon(self, "bus", "fildes.bus.__main__", fds, {})
        self.daemons.append(self.bus)
        self.bus.start()
        return self.bus

    def daemon(self, name: str, module: str, fds: dict[str, Fd] | None = None, **settings: Any) -> Daemon:
        """A driver in a child, not yet started. Without a bus the test speaks to it as the bus: `as_bus(name)`."""
        assert name in NUMBERS
        self.channels([name])
        daemon = Daemon(self, name, module, fds or {}, settings)
        self.daemons.append(daemon)
        return daemon

    def as_bus(self, name: str) -> Peer:
        """The test at the bus's end of that daemon's channel."""
        return Peer(self.loop, self.far[name])

    # — the catalogue and the orchestrator —

    def publish(self, *rights: Rights) -> None:
        """They become current, those of the same services before them go. Tells the bus if it runs."""
        services = {each.service for each in rights}
        gone = [each.release for each in self.rights if each.service in services]
        self.rights = [each for each in self.rights if each.service not in services] + list(rights)
        after, self.number = self.number, self.number + 1
        if self.bus is not None:
            self.peers["catalogue"].tell("bus.delta", RightsDelta(after, self.number, list(rights), gone))

    async def _subscribe(self, asked: Asked[Subscribe]) -> tuple[Snapshot, list[Fd]]:
        return Snapshot(self.number), [memfd.sealed("rights", msgspec.msgpack.encode(self.rights))]

    async def _conveyor(self, asked: Asked[GetConveyor]) -> tuple[msgspec.Struct, list[Fd]]:
        release = asked.body.release
        if release not in self.conveyors:
            self.conveyors[release] = seqpacket_pair()
        return Snapshot(0), [self.conveyors[release][0].dup()]

    def channel(self, release: str, service: str, grants: list[Grant] | None = None) -> Fd:
        """An instance's end of a new channel."""
        self.instances += 1
        body = wire.Channel(release, self.instances, service, grants)
        answer = self.run(self.peers["orchestrator"].ask("bus.channel", body))
        (end,) = answer.fds
        return end

    def program(
        self, service: str, grants: Iterable[Grant] = (), *, release: str = "", said: list[Grant] | None = None
    ) -> Program:
        """An instance of that service, as its sdk sees the world; closed with the stage."""
        release = release or f"r-{service}"
        program = Program(Kit(self.channel(release, service, said), service, release, grants))
        self.programs.append(program)
        return program

    def call(self, function: Callable[[], Any], meanwhile: Callable[[], object] = lambda: None) -> Any:
        """Run `function`, which blocks, in a thread, while this loop turns and `meanwhile` is called."""
        result: list[tuple[bool, Any]] = []

        def work() -> None:
            try:
                result.append((True, function()))
            except BaseException as error:
                result.append((False, error))

        def done() -> bool:
            meanwhile()
            return bool(result)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            self.until(done, "a program's call to return")
        finally:
            thread.join()
        good, value = result[0]
        if not good:
            raise value
        return value

    def introduced(self, release: str) -> tuple[str, Fd]:
        """The next caller on that release's conveyor, and the stream to it."""
        received = receive_with_fds(self.conveyors[release][1].fileno())
        introduction = decode_inward(received.data, len(received.fds))
        assert isinstance(introduction, Introduction)
        return introduction.caller, received.fds[0]

    def status(self) -> wire.Status:
        status: wire.Status = self.run(self.peers["debug"].ask("bus.status", reply=wire.Status)).body
        return status

    def close(self) -> None:
        for program in self.programs:
            program.channel.close()
        for daemon in self.daemons:
            daemon.kill()
        for daemon in self.daemons:
            daemon.close()
        self.loop.close()
        close_all((*self.near.values(), *self.far.values()))
        close_all([end for pair in self.conveyors.values() for end in pair])


class Kit:
    """What the runtime hands to the sdk. Takes `channel` over."""

    def __init__(
        self,
        channel: Fd | None,
        service: str,
        release: str,
        grants: Iterable[Grant],
        opened: dict[str, list[int]] | None = None,
    ) -> None:
        self.channel = channel.take() if channel else -1
        self.grants = opened or {}
        lines = [{"name": each.name, "kind": each.kind, "to": each.to} for each in grants]
        self.settings = {"service": service, "release": release, "grants": lines}


def rights(service: str, *grants: Grant, offers: Iterable[str] = (), release: str = "") -> Rights:
    return Rights(release or f"r-{service}", service, "anna", list(grants), list(offers))
