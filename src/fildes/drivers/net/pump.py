"""Bytes between two stream sockets, both ways, with half-closes passed on and nothing queued without bound."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN, EPOLLOUT, Loop, Timer

_CHUNK: Final = 256 * 1024


class _Side:
    """One socket: what is to be written to it, and whether it may still be read from."""

    __slots__ = ("events", "finished", "pending", "shut", "sock")

    def __init__(self, fd: Fd, pending: bytes) -> None:
        self.sock = socket.socket(fileno=fd.take())
        self.sock.setblocking(False)
        self.pending = memoryview(pending)
        self.finished = False  # its peer sent end-of-file
        self.shut = False  # end-of-file was passed on to it
        self.events = 0


class Pump:
    """Owns both descriptors. `on_done()` is called once, when both directions ended, one failed, or `close` was said.

    `idle` seconds without a byte in either direction end it.
    """

    def __init__(
        self, loop: Loop, one: Fd, other: Fd, *, to_one: bytes, to_other: bytes, idle: float,
        on_done: Callable[[], object],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._one, self._other = _Side(one, to_one), _Side(other, to_other)
        self._idle, self._on_done = idle, on_done
        self._closed = False
        self._moved = loop.time()
        self._timer: Timer = loop.call_later(idle, self._check_idle)
        self._watch()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        for side in (self._one, self._other):
            self._loop.unwatch(side.sock.fileno())
            side.sock.close()
        self._on_done()

    def _handler(self, side: _Side, opposite: _Side) -> Callable[[int], object]:
        def ready(events: int) -> None:
            try:
                if events & EPOLLOUT or side.pending:
                    self._write(side)
                if events & ~EPOLLOUT and not side.finished and not opposite.pending:
                    self._read(side, opposite)
                self._go_on()
            except OSError:
                self.close()

        return ready

    def _read(self, side: _Side, opposite: _Side) -> None:
        try:
            data = side.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        self._moved = self._loop.time()
        if not data:
            side.finished = True
            return
        opposite.pending = memoryview(data)
        self._write(opposite)

    def _write(self, side: _Side) -> None:
        if side.pending:
            try:
                side.pending = side.pending[side.sock.send(side.pending, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                return
            self._moved = self._loop.time()

    def _go_on(self) -> None:
        for side, opposite in ((self._one, self._other), (self._other, self._one)):
            if side.finished and not opposite.pending and not opposite.shut:
                opposite.shut = True
                opposite.sock.shutdown(socket.SHUT_WR)
        if self._one.shut and self._other.shut:
            self.close()
            return
        self._watch()

    def _watch(self) -> None:
        # A socket from which nothing is wanted is not watched at all: epoll reports EPOLLHUP unasked.
        for side, opposite in ((self._one, self._other), (self._other, self._one)):
            wanted = EPOLLIN if not side.finished and not opposite.pending else 0
            wanted |= EPOLLOUT if side.pending else 0
            if wanted == side.events:
                continue
            if not wanted:
                self._loop.unwatch(side.sock.fileno())
            elif side.events:
                self._loop.rewatch(side.sock.fileno(), wanted)
            else:
                self._loop.watch(side.sock.fileno(), wanted, self._handler(side, opposite))
            side.events = wanted

    def _check_idle(self) -> None:
        left = self._moved + self._idle - self._loop.time()
        if left <= 0:
            self.close()
        else:
            self._timer = self._loop.call_later(left, self._check_idle)
