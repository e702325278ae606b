"""Connections whose head is not complete: they wait in a queue of deadlines, and cost no more than that."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from fildes.daemon.deadlines import Deadlines
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.web import proxy_header
from fildes.web.access import About
from fildes.web.answers import Answers
from fildes.web.crowd import Crowd
from fildes.web.parcels import Past
from fildes.web.proxies import PROXY_PROTOCOL
from fildes.web.sockets import close_passed, read_passed
from fildes.wire.http import HEAD_LIMIT, Bad, Head, Incomplete, parse

HEAD_SECONDS: Final = 10.0  # from the first byte of a request (or its connection) to the end of its head
IDLE_SECONDS: Final = 75.0  # between two requests
_READ: Final = 8192

# (number, peer, data, past); the callee owns the number.
Arrived = Callable[[int, bytes, bytes, Past], object]


class _Reading:
    __slots__ = ("buffer", "past", "peer", "who")

    def __init__(self, peer: bytes, data: bytes, past: Past, who: bytes) -> None:
        self.buffer = bytearray(data)
        self.peer = peer
        self.past = past
        self.who = who


class Heads:
    def __init__(self, loop: Loop, limit: int, answers: Answers, crowd: Crowd, arrived: Arrived) -> None:
        self._loop = loop
        self._limit = limit
        self._answers = answers
        self._crowd = crowd
        self._arrived = arrived
        self._reading: dict[int, _Reading] = {}
        self._begun = Deadlines(loop, HEAD_SECONDS, self._overdue)
        self._idle = Deadlines(loop, IDLE_SECONDS, self._drop)

    def __len__(self) -> int:
        return len(self._reading)

    def read_on(self, number: int, peer: bytes, data: bytes, past: Past, *, between: bool = False) -> None:
        """Own `number` until its head is complete. `between`: it has had a request before."""
        who = b"" if past.way else self._crowd.key(peer)
        if not self._crowd.enter(who):
            self._answers.crowded(number, past, about=About(peer))
            return
        if len(self._reading) >= self._limit:
            self.make_room()
        self._reading[number] = _Reading(peer, data, past, who)
        idle = not data and (between or past.passed)
        (self._idle if idle else self._begun).add(number)
        self._loop.watch(number, EPOLLIN, lambda _: self._more(number))

    def _more(self, number: int) -> None:
        reading = self._reading[number]
        past = reading.past
        try:
            # Whoever handed it back may have kept a copy, and made it blocking.
            data = read_passed(number, _READ) if past.passed else os.read(number, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(number)
            return
        buffer = reading.buffer
        fresh = not buffer
        if fresh:
            self._idle.remove(number)
            self._begun.add(number)
        buffer += data
        # Parsed when it can be complete, and once at first, so that a trickle costs nothing but its bytes.
        if (
            fresh
            or past.way == PROXY_PROTOCOL
            or len(buffer) >= HEAD_LIMIT
            or buffer.find(b"\r\n\r\n", -len(data) - 3) >= 0
        ) and not isinstance(read(bytes(buffer), past), Incomplete):
            self._forget(number)
            self._arrived(number, reading.peer, bytes(buffer), past)

    def _forget(self, number: int) -> None:
        reading = self._reading.pop(number)
        self._crowd.leave(reading.who)
        self._begun.remove(number)
        self._idle.remove(number)
        self._loop.unwatch(number)

    def _overdue(self, number: int) -> None:
        reading = self._reading[number]
        past = reading.past
        self._forget(number)
        text = f"The head of the request did not arrive within {HEAD_SECONDS:g} seconds."
        self._answers.refuse(number, 408, text, passed=past.passed, about=About(reading.peer))

    def _drop(self, number: int) -> None:
        self._forget(number)
        close_passed(number)

    def make_room(self) -> None:
        """Who has been slow for longest goes, if there is anybody."""
        if (oldest := self._begun.oldest()) is not None:
            self._overdue(oldest)
        elif (oldest := self._idle.oldest()) is not None:
            self._drop(oldest)

    def close(self) -> None:
        for number in list(self._reading):
            self._drop(number)


def read(data: bytes, past: Past) -> Head | Bad | Incomplete | proxy_header.Introduced:
    """What a connection with this past begins with."""
    if past.way == PROXY_PROTOCOL:
        return proxy_header.parse(data)
    return parse(data)
