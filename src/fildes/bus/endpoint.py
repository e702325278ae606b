"""One end of a channel in the bus's hands: reading in turns, writing without waiting, pausing.

It knows nothing of what the datagrams say.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence

from fildes.bus.quota import Limits, Unread
from fildes.kernel import sockets
from fildes.kernel.fds import Fd, Received, Truncated, close_all, receive_with_fds, send_with_fds, set_blocking
from fildes.kernel.loop import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, Loop
from fildes.wire.message import MAX_DATAGRAM, MAX_FDS

_RETRY = 0.02  # seconds, after ETOOMANYREFS: others must receive first


class Endpoint:
    """Owns `fd`. `on_datagram(received | Truncated)` owns what was received; `on_gone` comes at most once, when
    nobody holds the other end any more: then the owner calls `close`."""

    def __init__(
        self,
        loop: Loop,
        fd: Fd,
        limits: Limits,
        *,
        on_datagram: Callable[[Received | Truncated], object],
        on_gone: Callable[[], object],
        on_sent: Callable[[], object] | None = None,
    ) -> None:
        self.loop, self.limits = loop, limits
        self._fd, self._on_datagram, self._on_gone, self._on_sent = fd, on_datagram, on_gone, on_sent
        self._outbox: deque[tuple[bytes, Sequence[Fd]]] = deque()
        self._bytes = self._fds = 0
        self._unread = Unread(sockets.smallest_charge())
        self._events = EPOLLIN
        self._gone = False
        set_blocking(fd.fileno(), False)
        loop.watch(fd.fileno(), EPOLLIN, self._on_events)

    # — writing —

    @property
    def queued(self) -> int:
        """Datagrams that wait for room in the kernel's queue."""
        return len(self._outbox)

    def has_room(self, size: int, fds: int) -> bool:
        """May another datagram be queued? Empty queues take anything."""
        return not self._outbox or (
            len(self._outbox) < self.limits.queued
            and self._bytes + size <= self.limits.queued_bytes
            and self._fds + fds <= self.limits.queued_fds
        )

    def may_take_fds(self) -> bool:
        """Has the peer received enough of the descriptors sent before? (They are in flight on the bus's account.)"""
        if self._gone:
            return False
        unread = sockets.unread(self._fd.fileno())
        return self._unread.at_most(unread) + self._fds < self.limits.unread_fds

    def send(self, data: bytes, fds: Sequence[Fd] = ()) -> None:
        """Send, or queue whatever `has_room` says. Consumes `fds`."""
        if self._gone:
            close_all(fds)
            return
        self._outbox.append((data, fds))
        self._bytes += len(data)
        self._fds += len(fds)
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            data, fds = self._outbox[0]
            try:
                send_with_fds(self._fd.fileno(), data, [fd.fileno() for fd in fds])
            except BlockingIOError:
                self._watch(self._events | EPOLLOUT)
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    self.loop.call_later(_RETRY, self._try_again)
                    return
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise
                self._lost()
                return
            self._outbox.popleft()
            self._bytes -= len(data)
            self._fds -= len(fds)
            self._unread.sent(len(fds))
            close_all(fds)
            if self._on_sent is not None:
                self._on_sent()
        self._watch(self._events & ~EPOLLOUT)

    def _try_again(self) -> None:
        if not self._gone:
            self._flush()

    # — reading —

    def pause(self) -> None:
        """Read nothing more until `resume`: what the peer sends waits in its own queue, at its own cost."""
        self._watch(self._events & ~EPOLLIN)

    def resume(self) -> None:
        self._watch(self._events | EPOLLIN)

    @property
    def paused(self) -> bool:
        return not self._events & EPOLLIN

    def _watch(self, events: int) -> None:
        if not self._gone and events != self._events:
            self._events = events
            self.loop.rewatch(self._fd.fileno(), events)

    def _on_events(self, events: int) -> None:
        if events & EPOLLOUT:
            self._flush()
        if events & EPOLLIN:
            for _ in range(self.limits.rounds):
                if self._gone or self.paused or not self._receive():
                    return
        elif events & (EPOLLHUP | EPOLLERR):
            self._lost()

    def _receive(self) -> bool:
        try:
            received = receive_with_fds(self._fd.fileno(), MAX_DATAGRAM, MAX_FDS)
        except BlockingIOError:
            return False
        except Truncated as error:
            self._on_datagram(error)
            return True
        except ConnectionResetError:  # the peer closed with answers of ours unread
            self._lost()
            return False
        if not received.data:
            received.close()
            self._lost()
            return False
        self._on_datagram(received)
        return True

    # — the end —

    def _lost(self) -> None:
        if not self._gone:
            self.close()
            self._on_gone()

    def end(self) -> None:
        """Close it for good: init's duplicate does not keep it alive. Idempotent."""
        if not self._gone:
            sockets.end(self._fd.fileno())
            self.close()

    def close(self) -> None:
        """Idempotent; what is queued is closed with it."""
        if self._gone:
            return
        self._gone = True
        self.loop.unwatch(self._fd.fileno())
        self._fd.close()
        for _, fds in self._outbox:
            close_all(fds)
        self._outbox.clear()
