"""init's side of one daemon: both ends of its store channel and of its way to the bus.

Because init holds both ends, what is queued on the way to or from a killed daemon stays there for its successor.
init answers at once or keeps the answer; it never waits for a daemon. A daemon that does not read its answers is not
read from either.
"""

from __future__ import annotations

import errno
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from fildes.init.deposits import Deposits
from fildes.kernel.fds import Fd, Truncated, close_all, receive_with_fds, send_with_fds, seqpacket_pair, set_blocking
from fildes.kernel.loop import EPOLLIN, EPOLLOUT, Loop
from fildes.wire import store as wire

BUFFER: Final = 1 << 20  # bytes asked for a channel's queues; net.core.wmem_max may give less
_ROUNDS: Final = 64  # frames read before others get their turn
_UNREAD: Final = 256  # answers that a daemon may leave unread before it is not read from any more
_COMPLAINTS: Final = 5  # malformed frames of one process that are worth a line each
_FULL: Final = frozenset({errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS})


class Answer:
    """An answer of several frames, made one by one as there is room. `after`: a serial, or a place in the table."""

    __slots__ = ("after", "left", "nonce")

    def __init__(self, nonce: int, after: int, left: int) -> None:
        self.nonce, self.after, self.left = nonce, after, left


class Page(Answer):
    """Of deposits."""


class Listing(Answer):
    """Of daemons."""


class Pair:
    """A connected pair of which init owns both ends: `far` is what the daemon inherits."""

    __slots__ = ("far", "near")

    def __init__(self, near: Fd, far: Fd) -> None:
        self.near, self.far = near, far

    @classmethod
    def make(cls) -> Pair:
        return cls(*seqpacket_pair(BUFFER))

    def close(self) -> None:
        close_all((self.near, self.far))


class Channel:
    """Owns `store` and `bus`. Calls `on_ready()`, and `describe(place)` for the daemon at a place in the table."""

    def __init__(self, loop: Loop, name: str, store: Pair, bus: Pair, deposits: Deposits) -> None:
        self.name, self.store, self.bus, self.deposits = name, store, bus, deposits
        self.on_ready: Callable[[], object] = lambda: None
        self.describe: Callable[[int, int], tuple[wire.Process, Fd | None] | None] = lambda nonce, place: None
        self.outbox: deque[bytes | Answer] = deque()
        self._loop = loop
        self._complaints = 0
        self._number = store.near.fileno()
        set_blocking(self._number, False)
        loop.watch(self._number, EPOLLIN, self._on_events)

    # — to the daemon —

    def tell(self, frame: wire.ToDaemon) -> None:
        """Send, or keep until there is room."""
        self.outbox.append(wire.encode(frame))
        self.flush()

    def forget_answers(self) -> None:
        """The daemon died: what only it had asked for is not kept for its successor; exits are."""
        exits = [out for out in self.outbox if isinstance(out, bytes) and out.startswith(wire.EXITED)]
        self.outbox = deque(exits)
        self._complaints = 0
        self.flush()

    def close(self) -> None:
        self._loop.unwatch(self._number)
        self.outbox.clear()
        self.store.close()
        self.bus.close()
        self.deposits.close()

    def flush(self) -> None:
        while self.outbox:
            out = self.outbox[0]
            try:
                done = self._send_next(out) if isinstance(out, Answer) else self._send(out)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                if error.errno != errno.EAGAIN:  # the socket may well look writable: look again a little later
                    self._loop.call_later(0.02, self.flush)
                    return
                break
            if done:
                self.outbox.popleft()
        self._rewatch()

    def _send(self, data: bytes, fds: Sequence[Fd] = ()) -> bool:
        send_with_fds(self._number, data, [fd.fileno() for fd in fds])
        return True

    def _send_next(self, answer: Answer) -> bool:
        """One frame of it; True when that was the last."""
        if isinstance(answer, Page):
            entries, _ = self.deposits.page(answer.after, 1)
            if not answer.left or not entries:
                return self._send(wire.encode(wire.End(answer.nonce, answer.after, bool(entries))))
            [entry] = entries
            self._send(wire.encode(wire.Item(answer.nonce, entry.serial, entry.key, entry.blob)), entry.fds)
            answer.after, answer.left = entry.serial, answer.left - 1
            return False
        described = self.describe(answer.nonce, answer.after)
        if described is None:
            return self._send(wire.encode(wire.End(answer.nonce, 0, False)))
        frame, pidfd = described
        try:
            self._send(wire.encode(frame), [pidfd] if pidfd else [])
        finally:
            if pidfd:
                pidfd.close()
        answer.after += 1
        return False

    def _rewatch(self) -> None:
        events = EPOLLOUT if self.outbox else 0
        if len(self.outbox) < _UNREAD:
            events |= EPOLLIN
        self._loop.rewatch(self._number, events)

    # — from the daemon —

    def _on_events(self, events: int) -> None:
        if events & EPOLLOUT:
            self.flush()
        if not events & EPOLLIN:
            return
        for _ in range(_ROUNDS):
            if len(self.outbox) >= _UNREAD:
                return
            try:
                received = receive_with_fds(self._number, wire.MAX_FRAME, wire.MAX_FDS)
            except BlockingIOError:
                return
            except Truncated as error:
                self._complain(str(error))
                continue
            try:
                self._dispatch(wire.decode_to_init(received.data), received.fds)
            except wire.Malformed as error:
                self._complain(str(error))
            finally:
                received.close()

    def _dispatch(self, frame: wire.ToInit, fds: list[Fd]) -> None:
        if isinstance(frame, wire.Deposit):
            refused = self.deposits.put(frame.key, frame.blob, [Fd(fd.take()) for fd in fds])
            if refused is not None:
                self._complain(f"a deposit was refused: {refused}")
                if len(self.outbox) < _UNREAD:
                    self.tell(wire.Failed(frame.key, refused))
        elif isinstance(frame, wire.Drop):
            self.deposits.drop(frame.key)
        elif isinstance(frame, wire.Collect):
            self.outbox.append(Page(frame.nonce, frame.after, wire.PAGE))
            self.flush()
        elif isinstance(frame, wire.ListProcesses):
            self.outbox.append(Listing(frame.nonce, 0, 0))
            self.flush()
        else:
            self.on_ready()

    def _complain(self, text: str) -> None:
        self._complaints += 1
        if self._complaints <= _COMPLAINTS:
            say(f"{self.name}: {text}")


def say(text: str) -> None:
    """A line to the node's own log: the standard error that the keeper reads."""
    print(f"fildes: {text}", file=sys.stderr, flush=True)
