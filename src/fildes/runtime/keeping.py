"""The connections of an instance: who looks after them while no program does, and how they end. `loop` serves them.

`tell` and `attend` collect what is to be done when the programs of a round have taken their first steps; `_settle`
does it.
"""

from __future__ import annotations

import os
import resource
import select
from asyncio import AbstractEventLoop, TimerHandle
from select import EPOLLIN
from typing import Any, Protocol

from fildes.runtime.belt import Belt
from fildes.runtime.connection import ClientGone, Connection
from fildes.runtime.debts import OWED, Debts
from fildes.runtime.ending import Ending
from fildes.runtime.ends import Discarding, Lingering, Sending, Waiting
from fildes.runtime.tending import sweep
from fildes.wire.conveyor import MAX_CONNECTIONS, ONCE
from fildes.wire.http import Bad, refusal
from fildes.wire.http_body import Chunked, Sized

POSTS = 16  # answers that are written together
POST_SIZE = 65536  # bytes of one of them

SWEEP = 2.0  # s between looks for whoever waits too long
HEAD_TIMEOUT = 10.0  # s for the rest of a head
KEEP_ALIVE = 60.0  # s
IDLE = 60.0  # s
CONCURRENCY = 64
TIMEOUT = 60.0  # s until an answer begins
BODY = 100 * 1024 * 1024  # bytes of one request's body
LENT = 4  # for each place, requests at most that lend theirs while they wait for a body

WAITING, STARTED, STREAMING, COMPLETE = range(4)  # phases of a response
TRAILING = 6  # its body is complete, and trailers follow


class Unsettled(Protocol):
    """A request whose program has not answered in its first steps."""

    phase: int

    def settle(self) -> None: ...


class Keeping:
    """Made in the zygote: it opens the nested epoll."""

    def __init__(self, loop: AbstractEventLoop, settings: dict[str, Any]) -> None:
        self.loop = loop
        self.time = loop.time
        self.keep_alive = float(settings.get("keep_alive") or KEEP_ALIVE)
        self.head_timeout = float(settings.get("head_timeout") or HEAD_TIMEOUT)
        self.epoll = select.epoll()
        self.belt = Belt(self)
        self.ending = Ending(self, float(settings.get("idle") or IDLE))
        self.connections: dict[int, Connection] = {}
        # A descriptor that can't be received for want of numbers is lost, and a program needs some too.
        self.room = int(settings.get("room") or max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        self.limit = int(settings.get("concurrency") or CONCURRENCY)
        self.timeout = float(settings.get("timeout") or TIMEOUT)
        self.body = int(settings.get("body") or BODY)
        self.running = 0  # requests whose program has not returned
        self.lent = 0  # requests whose program waits for its client; others have their places
        self.reading = 0  # of these, those that wait for a body
        # A program that wants one request at a time is never given two.
        self.lendable = LENT * self.limit if self.limit > 1 else 0
        self.every = max(0.05, min(SWEEP, self.timeout / 2, self.head_timeout / 2))
        self.sockets = 0  # open WebSockets
        self.debts = Debts(self, int(settings.get("owed") or OWED))
        self.now = 0.0  # on the loop's clock, when this round began; asking for it is a call to the kernel
        self.round = False  # within a round of events: `now` is right, and more answers may follow
        self.posts: list[tuple[Connection, bytes, bool, Sized | Chunked | None]] = []
        self._unsettled: list[Unsettled] = []
        self._settling = False
        self._sweeper: TimerHandle | None = None

    # What the serving of requests adds

    def next_request(self, connection: Connection, data: bytes) -> None:
        """Start the request at the beginning of `data`, or wait for the rest of its head."""
        raise NotImplementedError

    def hand_back(self, connection: Connection, data: bytes) -> None:
        """Give a connection to the door, with what was read of its next request."""
        raise NotImplementedError

    def is_full(self, more: int = 0) -> bool:
        """Whether what the conveyor has is for other instances, with `more` requests about to begin."""
        raise NotImplementedError

    def next_turns(self) -> None:
        """There may be room: begin requests that wait for it."""
        raise NotImplementedError

    def is_busy(self) -> bool:
        return bool(self.connections or self.running or self.lent or self.sockets)

    def is_pressed(self) -> bool:
        """Whether others may be waiting because of those who are slow."""
        return self.running * 2 > self.limit or self.reading * 2 > self.lendable > 0

    def lend(self, *, reading: bool = False) -> bool:
        """A request waits for its client: let another one run. `reclaim` must follow if it is True."""
        if not self.lendable or (reading and self.reading >= self.lendable):
            return False
        self.lent += 1
        self.reading += reading
        self.ended()
        return True

    def reclaim(self, *, reading: bool = False) -> None:
        self.lent -= 1
        self.reading -= reading
        self.running += 1

    def ended(self) -> None:
        """A program has returned, or lent its place: there is room for another request."""
        raise NotImplementedError

    def take_again(self) -> None:
        if not self.ending.draining and not self.is_full():
            self.belt.take(True)

    # When the programs have taken their first steps

    def settle_soon(self) -> None:
        if not self._settling and (self._unsettled or self.belt.done):
            self._settling = True
            self.loop.call_soon(self._settle)

    def _settle(self) -> None:
        self.dispatch()
        self._settling = False
        unsettled, self._unsettled = self._unsettled, []
        for one in unsettled:
            if one.phase != COMPLETE:
                one.settle()
        if self.belt.done:
            self.belt.flush()

    def attend(self, one: Unsettled) -> None:
        """Have `settle` called when the program has made its next steps."""
        self._unsettled.append(one)
        if not self._settling:
            self._settling = True
            self.loop.call_soon(self._settle)

    def tell(self, connection: Connection) -> None:
        """The first byte of a response was written: the door may drop its copy of the connection."""
        connection.told = True
        self.belt.done.append(connection)
        if not self._settling:
            self._settling = True
            self.loop.call_soon(self._settle)

    def _sweep(self) -> None:
        self._sweeper = None
        self.now = self.time()
        sweep(self, self.now)
        if self.connections:
            self._sweeper = self.loop.call_later(self.every, self._sweep)

    # What becomes of a connection

    def arrived(self, connection: Connection, data: bytes) -> None:
        """A connection was taken from the conveyor, with what the door has read of it."""
        self.connections[connection.fd] = connection
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self.every, self._sweep)
        if data:
            self.next_request(connection, data)
        else:
            connection.since = self.time()
            connection.watch(EPOLLIN)

    def post(self, connection: Connection, data: bytes, keep: bool, reader: Sized | Chunked | None) -> bool:
        """Write the last of a response, perhaps with others of this round; whether it needs no waiting for.

        A write to a client that sleeps wakes it up, which costs more than the write: one after the other, each client
        would fall asleep again while we think about the next one's answer.
        """
        if (self.round or self._settling) and len(data) <= POST_SIZE and self.debts.owed <= self.debts.limit:
            self.posts.append((connection, data, keep, reader))
            if len(self.posts) >= POSTS:
                self.dispatch()
            return True
        return self._finish(connection, data, keep, reader) or self.debts.owed <= self.debts.limit

    def dispatch(self) -> None:
        """Write what `post` has collected."""
        posts, self.posts = self.posts, []
        for post in posts:
            self._finish(*post)

    def _finish(self, connection: Connection, data: bytes, keep: bool, reader: Sized | Chunked | None) -> bool:
        if not keep and reader is None and connection.out is None and data and not connection.buffer:
            return self._finish_for_good(connection, data)
        try:
            if (not data and connection.out is None) or connection.write(data):
                self.answered(connection, keep, reader)
                return True
        except ClientGone:
            return True
        connection.owner = Sending(self, connection, keep, reader)
        return False

    def _finish_for_good(self, connection: Connection, data: bytes) -> bool:
        try:
            if connection.write_last(data):
                self.close(connection)
                return True
        except ClientGone:
            return True
        connection.owner = Sending(self, connection, False, None)
        return False

    def answered(self, connection: Connection, keep: bool, reader: Sized | Chunked | None) -> None:
        """A response was written whole; `reader` is what is left of a body that nobody read."""
        connection.owner = None
        if connection.fd < 0:
            return
        if not keep:
            if reader is not None or connection.buffer:
                self.linger(connection)
            else:
                self.close(connection)
        elif reader is not None:
            discarding = connection.owner = Discarding(self, connection, reader)
            if connection.buffer:
                discarding.on_readable()
        elif connection.flags & ONCE:
            self.hand_back(connection, connection.buffer)
        elif connection.buffer:
            connection.owner = Waiting(connection)
            self.loop.call_soon(self._resume, connection)
        elif connection.eof or self.ending.draining:
            self.close(connection)
        else:
            connection.since = self.now
            if connection.mask != EPOLLIN:
                connection.watch(EPOLLIN)

    def _resume(self, connection: Connection) -> None:
        """A pipelined request, which arrived while the one before it was being answered."""
        if connection.fd >= 0:
            connection.owner = None
            data, connection.buffer = connection.buffer, b""
            self.next_request(connection, data)
            self.settle_soon()

    def refuse(self, connection: Connection, bad: Bad, head_only: bool = False, extra: str = "") -> None:
        """Answer with an error, and close. `extra` is header lines, each ending in CRLF."""
        connection.owner = None
        data = refusal(bad, extra)
        try:
            connection.write(data[: data.index(b"\r\n\r\n") + 4] if head_only else data)
            self.linger(connection)
        except ClientGone:
            return

    def misdirected(self, connection: Connection) -> None:
        """A connection that could not be handed back."""
        self.refuse(connection, Bad(421, "This connection belongs to another host; ask again on a new one."))

    def linger(self, connection: Connection) -> None:
        """Close, when the client has read what was written."""
        connection.buffer = b""
        if connection.out is not None:
            connection.owner = Sending(self, connection, False, Sized(0))
            return
        connection.owner = None
        try:
            connection.owner = Lingering(self, connection)
        except OSError:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        fd, connection.fd = connection.fd, -1
        if fd < 0:
            return
        if connection.mask >= 0:
            # The door may hold a copy still: closing ours would leave the registration behind.
            self.epoll.unregister(fd)
            connection.mask = -1
        os.close(fd)
        del self.connections[fd]
        if connection.kept or not connection.told:
            self.tell(connection)
        if connection.out is not None:
            connection.out = None
            self.debts.moved(connection)
        owner, connection.owner = connection.owner, None
        if owner is not None:
            owner.on_gone()
        if connection.waiters:
            connection.wake()
        if not self.connections:
            self.ending.quieten()
        elif len(self.connections) == self.room - MAX_CONNECTIONS:
            self.take_again()
