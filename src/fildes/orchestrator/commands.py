"""The commands of one release that run: forks of its zygote with streams of an operator's in place of a conveyor.

A command lives as long as its lease (wire/command.py): when the other end closes it is told to end, and a moment
later it is ended. One with a lease outlives this daemon; one of a publish ends with its candidate.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from fildes.daemon.peer import Peer, Refused
from fildes.daemon.store import Deposit, Store
from fildes.kernel import fds as fds_module
from fildes.kernel import memfd, process
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, close_all, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN, EPOLLRDHUP, Loop, Promise
from fildes.orchestrator import plan
from fildes.orchestrator.instances import Instance, held_as_blob
from fildes.orchestrator.kits import prepare
from fildes.orchestrator.launch import command_profile
from fildes.orchestrator.life import Stage
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.zygotes import Zygote
from fildes.wire import command as wire
from fildes.wire.catalogue import Release

MOST: Final = 8  # at once, of one release
EXIT_WORD: Final = 0.25  # seconds to wait for the zygote's word on how it ended
START_LIMIT: Final = 30.0  # seconds until the kernel must have attested it: a zygote may forget an order
PATIENCE: Final = 2.0  # seconds that one has to end when it is told to
_PTS: Final = range(136, 144)  # major numbers of pseudo-terminals, devices.txt
STREAMS: Final = ("stdin", "stdout", "stderr")


class Command(Instance):
    """One that was ordered; `ended` tells how it ended. Owns its lease, where it has one."""

    def __init__(
        self, loop: Loop, store: Store, release: Release, name: str, handle: Fd, zygote: Zygote, cgroup: Cgroup | None
    ) -> None:
        super().__init__(loop, store, release.id, name, handle, zygote.pid, cgroup)
        self._key = f"command.{release.id}.{name}"
        self.service = release.service
        self.stage = Stage.OPEN  # it has no requests to be full of
        self.zygote = zygote
        self.forked = True  # a short one may be gone before the kernel could attest it
        self._lease: Fd | None = None
        self.ended: Promise[wire.Ended] = Promise(loop)

    def hang_on(self, lease: Fd) -> None:
        """From now on it ends when the other end of `lease` closes."""
        self._lease = lease
        self._loop.watch(lease.fileno(), EPOLLIN | EPOLLRDHUP, self._on_lease)

    def deposit(self) -> None:
        if self._lease is not None:
            kept = [self._handle, self._lease, *([self._pidfd] if self._pidfd is not None else [])]
            self._store.deposit(self._key, held_as_blob(self.held), kept)

    def adopt(self, pidfd: Fd | None) -> None:
        if pidfd is not None:
            self._hold(pidfd)

    def send(self, number: int) -> None:
        """A signal; nothing if it is gone, or the kernel has not attested it yet."""
        if self._pidfd is not None and not self._pidfd.closed:
            process.pidfd_send_signal(self._pidfd.fileno(), number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Told to by that signal, and killed if it does not."""
        if not self.stopping:
            self.stopping = True
            self.send(number)
            self._loop.call_later(PATIENCE, self._insist)

    def begun_or_end(self) -> None:
        if self.pid < 0:
            self.end()

    def _insist(self) -> None:
        if not self.ended.done:
            self.kill()
            if self.pid < 0:
                self.zygote.kill()  # it never said who it is: it ends with all that its release runs

    def _on_lease(self, _: int) -> None:
        if self._lease is None:
            return
        try:
            # Whoever made the pair may have kept a copy of our end, and made it blocking.
            received = receive_with_fds(self._lease.fileno(), wire.MAX_DATAGRAM, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None or not received.data or self._floods():
            self._loop.unwatch(self._lease.fileno())
            self.end(signal.SIGHUP)
            return
        with contextlib.suppress(ValueError):
            self.send(wire.decode_signal(received.data))

    def conclude(self, word: wire.Ended) -> None:
        """It is over: say so to whoever holds the lease, and let go of everything."""
        if self._lease is not None:
            with contextlib.suppress(OSError):  # nobody is left who would hear it
                send_with_fds(self._lease.fileno(), wire.encode_ended(*word), flags=socket.MSG_DONTWAIT)
            self._loop.unwatch(self._lease.fileno())
            self._lease.close()
            self._lease = None
        self.ended.resolve(word)
        self.close()


class Commands:
    """`on_empty()`: the last one has ended."""

    def __init__(self, loop: Loop, peer: Peer, store: Store, resources: Resources, release: Release) -> None:
        self._loop, self._peer, self._store, self._resources = loop, peer, store, resources
        self._release = release
        self._all: dict[str, Command] = {}
        self._coming = 0
        self.on_empty: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._all) + self._coming

    def __iter__(self) -> Iterator[Command]:
        return iter(list(self._all.values()))

    async def begin(
        self,
        zygote: Zygote,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        streams: Sequence[Fd],
        lease: Fd | None = None,
    ) -> Command:
        """Have `zygote` run one; its exit words are to be told to `on_exit_word`. `streams` (borrowed) become its
        0, 1 and 2; `lease` is borrowed too. Raises Refused; nothing is left then."""
        self._coming += 1
        try:
            _check(streams)
            if lease is not None:
                _check_lease(lease)
            if len(self) > MOST:
                raise Refused("busy", f"{MOST} commands of {self._release.service} run already; wait for one to end")
            words = {"arguments": list(arguments), "environment": dict(environment)}
            command = await self._order(zygote, words, streams)
        except BaseException as error:
            if isinstance(error, OSError):
                raise Refused("warm", f"the command could not be started: {error}") from error
            raise
        finally:
            self._coming -= 1
        self._take_up(command)  # first: what runs is counted, shown and ended, whatever else fails
        try:
            if lease is not None:
                command.hang_on(lease.dup())
        except OSError as error:
            command.end(signal.SIGKILL)
            raise Refused("warm", f"the command's lease can't be watched: {error}") from error
        command.deposit()
        self._loop.call_later(START_LIMIT, command.begun_or_end)
        return command

    async def _order(self, zygote: Zygote, words: dict[str, Any], streams: Sequence[Fd]) -> Command:
        held = _held(streams)
        kit = await prepare(self._peer, self._release)
        try:
            kit.cgroup = self._resources.instance_cgroup(zygote.cgroup, kit.instance, self._release)
            if kit.cgroup is not None and zygote.threads == 1:  # with threads it stays in the release's
                kit.entrances = kit.cgroup.entrances()
            if zygote.gone:
                raise Refused("warm", f"the program of {self._release.service} ended; see: fildes logs")
            named = dict(zip(STREAMS, streams, strict=True))
            with memfd.sealed("filter", self._resources.program(command_profile(self._release))) as program:
                given = [*kit.named(), *((name, fd.fileno()) for name, fd in named.items())]
                zygote.start(kit.instance, [*given, ("filter", program.fileno())], command=words)
        except BaseException:
            kit.close()
            raise
        command = Command(self._loop, self._store, self._release, kit.instance, kit.ours, zygote, kit.cgroup)
        command.held = kit.held | held
        close_all(kit.given)
        return command

    def _take_up(self, command: Command) -> None:
        self._all[command.name] = command
        command.on_end = lambda: self._on_end(command)

    # — ending —

    def on_exited(self, message: dict[str, Any]) -> bool:
        """As the zygote says it (wire/zygote.py); whether it is about one of these."""
        name, status = message.get("instance"), message.get("status")
        if not isinstance(name, str) or not isinstance(status, int):
            return False
        return self.on_exit_word(name, status, forked="why" not in message)

    def on_exit_word(self, name: str, status: int, *, forked: bool = True) -> bool:
        """The zygote's word on how one ended, or that it could not fork; whether there is one of that name."""
        command = self._all.get(name)
        if command is None:
            return False
        command.status, command.forked = status, forked
        if command.pid < 0 or command.unexplained is not None:
            self._over(command)
        return True

    def _on_end(self, command: Command) -> None:
        """It is gone; the zygote, who is its parent, tells how, or keeps silent."""
        command.on_end = lambda: None
        if command.status is None:
            command.unexplained = self._loop.call_later(EXIT_WORD, lambda: self._over(command))
        else:
            self._over(command)

    def _over(self, command: Command) -> None:
        if self._all.pop(command.name, None) is None:
            return
        oom_kills = command.cgroup.oom_kills() if command.cgroup is not None else 0
        command.conclude(how(command.status, started=command.forked, oom_kills=oom_kills))
        self._resources.remove_cgroup(command.cgroup)
        if not self._all:
            self.on_empty()

    def end(self) -> None:
        """All of them, now."""
        for command in self:
            command.end()

    async def ended(self) -> None:
        for command in self:
            await command.ended

    def forget(self) -> None:
        """A successor of this daemon could not take them up."""
        for command in self:
            command.forget()

    # — a restart of this daemon —

    def adopt(self, deposit: Deposit, name: str, zygote: Zygote | None) -> None:
        handle, lease, *pidfd = deposit.fds
        if zygote is None or not pidfd:
            close_all(deposit.fds)
            self._store.drop(deposit.key)
            return
        cgroup = self._resources.instance_cgroup(zygote.cgroup, name, self._release)
        command = Command(self._loop, self._store, self._release, name, handle, zygote, cgroup)
        command.held = json.loads(deposit.blob)
        command.adopt(pidfd[0])
        command.hang_on(lease)
        self._take_up(command)


def _held(streams: Sequence[Fd]) -> dict[str, str]:
    """Name of the description → why a command has it. A terminal is behind several of its streams."""
    held: dict[str, str] = {}
    for name, fd in zip(STREAMS, streams, strict=True):
        terminal = stat.S_ISCHR(os.fstat(fd.fileno()).st_mode)
        held[fds_module.name(fd.fileno())] = "command: its terminal" if terminal else f"command: {name}"
    return held


def _check(streams: Sequence[Fd]) -> None:
    """Pipes and pseudo-terminals only: closing them never waits, and a program can do little with them."""
    for fd in streams:
        found = os.fstat(fd.fileno())
        terminal = stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in _PTS
        if not (stat.S_ISFIFO(found.st_mode) or terminal):
            raise Refused("malformed", "a command's streams are pipes or a pseudo-terminal; is this CLI the node's?")


def _check_lease(lease: Fd) -> None:
    """Of anything else its end may never be told: a file has none."""
    try:
        with socket.socket(fileno=os.dup(lease.fileno())) as sock:
            if (sock.family, sock.type & 0xF) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                return
    except OSError:
        pass
    raise Refused("malformed", "a command's lease is a SOCK_SEQPACKET pair; is this CLI the node's?")


def how(status: int | None, *, started: bool, oom_kills: int = 0) -> wire.Ended:
    """A zygote's word on a child (waitpid(2), a tenant's number), for who waits for it. Pure."""
    if status is None:
        return wire.Ended(signal.SIGKILL, "it ended together with its release")
    code, number = status >> 8 & 0xFF, status & 0x7F
    if not started:
        return wire.Ended(1 << 8, "it could not be started; see: [limits] tasks and memory")
    if number in (0, 0x7F):
        return wire.Ended(code << 8, "")
    quiet = number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    return wire.Ended(number, "" if quiet else plan.exit_sentence(number, oom_kills))
