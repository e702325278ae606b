"""A daemon's side of the fd store: descriptors given to init outlive this process.

    store = Store(loop, inheritance.store)
    for deposit in await store.collect(): ...      # what a killed forerunner left
    store.deposit("conveyor.4f1c", blob, [end])    # before the peer's end leaves this process
    store.ready()

A deposit is one datagram. Once `deposit` has returned, the kernel holds it, even if this process is killed in the
next instruction: init reads it before it answers the next `collect`, which comes behind it in the same queue.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from fildes.kernel.fds import Fd, Received, Truncated, close_all, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN, Loop, Promise
from fildes.wire import store as wire

_ROUNDS: Final = 64


class Deposit(NamedTuple):
    """One thing kept; whoever gets it owns `fds`. init keeps its own duplicates until `drop`."""

    key: str
    blob: bytes
    fds: list[Fd]


class DaemonStatus(NamedTuple):
    """`pid` is init's word for it, in its PID namespace; other namespaces see another number: ask `pidfd`."""

    name: str
    state: str  # "down", "starting", "ready"
    restarts: int
    pid: int
    pidfd: Fd | None


class DepositRefused(Exception):
    """init did not take a deposit, and closed its descriptors; the sentence says why."""


class _Asking:
    __slots__ = ("fds", "frames", "nonce", "promise")

    def __init__(self, nonce: int, promise: Promise[wire.End]) -> None:
        self.nonce = nonce
        self.promise = promise
        self.frames: list[wire.Item | wire.Process] = []
        self.fds: list[list[Fd]] = []


class Store:
    """Owns `fd`. Only one `collect` or `daemons` is under way at a time; others wait their turn."""

    def __init__(self, loop: Loop, fd: Fd) -> None:
        self.loop = loop
        self._fd = fd
        # Not believed to be unpredictable: it tells answers of ours from those for a forerunner that was killed.
        self._nonce = int.from_bytes(os.urandom(4), "little")
        self._asking: _Asking | None = None
        self._turn: Promise[None] | None = None
        self._on_exit: Callable[[int, int], object] | None = None
        self._early: list[wire.Exited] = []
        self._on_closing: Callable[[], object] = loop.stop
        self._on_refused: Callable[[str, str], object] = self._report
        # Blocking, so that a deposit waits for room without a further call; reads say MSG_DONTWAIT.
        os.set_blocking(fd.fileno(), True)
        loop.watch(fd.fileno(), EPOLLIN, self._readable)

    # — giving —

    def deposit(self, key: str, blob: bytes = b"", fds: Sequence[Fd | int] = ()) -> None:
        """Keep duplicates of `fds` (borrowed) and `blob` under `key`, in place of what was there.

        Raises ValueError if it is larger than the protocol allows. One beyond init's quota is told to `on_refused`.
        """
        frame = wire.Deposit(key.encode(), bytes(blob))
        wire.check(*frame, len(fds))
        numbers = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
        send_with_fds(self._fd.fileno(), wire.encode(frame), numbers)

    def drop(self, key: str) -> None:
        """Close what is under `key`, if anything is."""
        frame = wire.Drop(key.encode())
        wire.check(frame.key, b"", 0)
        send_with_fds(self._fd.fileno(), wire.encode(frame))

    def ready(self) -> None:
        """Say once that this daemon answers; `fildes up` reports the node as serving when every one has."""
        send_with_fds(self._fd.fileno(), wire.encode(wire.Ready()))

    # — getting back —

    async def collect(self) -> list[Deposit]:
        """All deposits of this daemon, oldest first; the caller owns their descriptors."""
        deposits: list[Deposit] = []
        after, more = 0, True
        while more:
            asking = await self._ask(partial(wire.Collect, after=after))
            for frame, fds in zip(asking.frames, asking.fds, strict=True):
                if isinstance(frame, wire.Item):
                    deposits.append(Deposit(frame.key.decode(), frame.blob, fds))
            _, after, more = asking.promise.result()
        return deposits

    async def daemons(self) -> list[DaemonStatus]:
        """Every daemon as init sees it; empty unless init lets this daemon ask. The caller owns the pidfds."""
        asking = await self._ask(wire.ListProcesses)
        return [
            DaemonStatus(frame.name, frame.state, frame.restarts, frame.pid, fds[0] if fds else None)
            for frame, fds in zip(asking.frames, asking.fds, strict=True)
            if isinstance(frame, wire.Process)
        ]

    # — being told —

    def on_exit(self, callback: Callable[[int, int], object]) -> None:
        """Call `callback(pid, status)` for every process reaped by init that was no daemon; `status` is wait(2)'s.

        Only the daemon whom init's table names hears of them, the ones before its start too.
        """
        self._on_exit = callback
        early, self._early = self._early, []
        for exited in early:
            self.loop.call_soon(partial(callback, *exited))

    def on_closing(self, callback: Callable[[], object]) -> None:
        """Call `callback()` when the whole node ends, instead of `loop.stop()`. There is a second, not more."""
        self._on_closing = callback

    def on_refused(self, callback: Callable[[str, str], object]) -> None:
        """Call `callback(key, sentence)` for a deposit that init did not take, instead of `loop.on_error`."""
        self._on_refused = callback

    def _report(self, key: str, text: str) -> None:
        self.loop.on_error(DepositRefused(f"{key}: {text}"))

    def close(self) -> None:
        self.loop.unwatch(self._fd.fileno())
        self._fd.close()

    # — the channel —

    async def _ask(self, request: Callable[[int], wire.Collect | wire.ListProcesses]) -> _Asking:
        while self._turn is not None:
            await self._turn
        self._turn = Promise(self.loop)
        try:
            self._nonce = (self._nonce + 1) & 0xFFFFFFFF
            self._asking = asking = _Asking(self._nonce, Promise(self.loop))
            send_with_fds(self._fd.fileno(), wire.encode(request(self._nonce)))
            await asking.promise
            return asking
        finally:
            self._asking = None
            turn, self._turn = self._turn, None
            turn.resolve(None)

    def _readable(self, _: int) -> None:
        for _ in range(_ROUNDS):
            try:
                received = receive_with_fds(self._fd.fileno(), wire.MAX_FRAME, wire.MAX_FDS, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except Truncated as error:
                self.loop.on_error(error)
                continue
            if not received.data:  # init is gone
                self.loop.unwatch(self._fd.fileno())
                self.loop.stop()
                return
            self._dispatch(received)

    def _dispatch(self, received: Received) -> None:
        fds = received.fds
        try:
            frame = wire.decode_to_daemon(received.data)
        except wire.Malformed as error:
            close_all(fds)
            self.loop.on_error(error)
            return
        if isinstance(frame, wire.Item | wire.Process):
            if self._asking is None or frame.nonce != self._asking.nonce:
                close_all(fds)  # for a forerunner
            else:
                self._asking.frames.append(frame)
                self._asking.fds.append(fds)
            return
        close_all(fds)
        if isinstance(frame, wire.End):
            if self._asking is not None and frame.nonce == self._asking.nonce:
                self._asking.promise.resolve(frame)
        elif isinstance(frame, wire.Exited):
            if self._on_exit is None:
                self._early.append(frame)
            else:
                self._on_exit(*frame)
        elif isinstance(frame, wire.Failed):
            self._on_refused(frame.key.decode(), frame.text)
        else:
            self._on_closing()
