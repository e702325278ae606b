"""The serving loop of an instance: requests are answered on the connections that the conveyor brings.

One nested epoll holds all connections; the event loop outside (uvloop or asyncio) sees one descriptor. In a round:
read what is ready, parse, start a task a request. When their first steps have run, `_settle` tells the door which
connections were answered, and looks after the requests that are not finished. A connection that is answered and
closed in its first round is never registered anywhere.

    Belt ─► arrived ─► next_request ─► Exchange or WebSocket (`owner`) ─► answered ─► idle ─► next_request …
                            │                                                ├─► close, or Lingering
                            └─► back to the door: not our host               └─► Discarding: a body nobody read
"""

from __future__ import annotations

import os
import resource
import select
from asyncio import AbstractEventLoop, Future, Task, TimerHandle
from collections import deque
from collections.abc import Awaitable, Callable
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any

from fildes.runtime.belt import Belt
from fildes.runtime.connection import ClientGone, Connection
from fildes.runtime.date import Dater
from fildes.runtime.ending import Ending
from fildes.runtime.ends import Discarding, Lingering, Waiting
from fildes.runtime.exchange import ASGI, BODY_PATIENCE, COMPLETE, Exchange
from fildes.runtime.places import Places
from fildes.runtime.tending import make_room, sweep
from fildes.runtime.websocket import WebSocket
from fildes.wire.conveyor import MAX_CONNECTIONS, ONCE
from fildes.wire.http import Bad, Fields, Head, Incomplete, Line, parse, refusal
from fildes.wire.http_body import Chunked, Sized

ROUNDS = 4  # of the nested epoll, before other things in the loop get their turn
EVENTS = 128
SWEEP = 2.0  # s between looks for whoever waits too long
HEAD_TIMEOUT = 10.0  # s for the rest of a head
KEEP_ALIVE = 60.0  # s
IDLE = 60.0  # s
CONCURRENCY = 64

Program = Callable[..., Awaitable[Any]]


class Serving:
    """Made in the zygote (it opens the nested epoll), begun in the instance."""

    def __init__(self, loop: AbstractEventLoop, program: Program, settings: dict[str, Any]) -> None:
        self.loop = loop
        self.program = program
        self.time = loop.time
        self.limit = int(settings.get("concurrency") or CONCURRENCY)
        self.keep_alive = float(settings.get("keep_alive") or KEEP_ALIVE)
        self.head_timeout = float(settings.get("head_timeout") or HEAD_TIMEOUT)
        self.dater: Dater | None = None  # where a clock was granted
        self.body_patience = float(settings.get("body_patience") or BODY_PATIENCE)
        self.epoll = select.epoll()
        self.belt = Belt(self)
        self.ending = Ending(self, float(settings.get("idle") or IDLE))
        self.places = Places(settings.get("hosts") or ())
        self._whole = self.places.whole
        self.address = (self.places.first or str(settings.get("service", "")), 80)
        self.connections: dict[int, Connection] = {}
        # A descriptor that can't be received for want of numbers is lost, and a program needs some too.
        self.room = int(settings.get("room") or max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        self.running = 0  # requests whose program has not returned
        self.sockets = 0  # open WebSockets, likewise
        self.state: dict[str, Any] = {}  # of the lifespan
        self._handle = -1
        self._queue: deque[Connection] = deque()  # with a request that waits for its turn
        self._unsettled: list[Exchange | WebSocket] = []
        self._settling = False
        self._sweeper: TimerHandle | None = None
        loop.add_reader(self.epoll.fileno(), self._on_epoll)

    # Beginning and end

    def begin(self, conveyor: int, handle: int) -> Future[None]:
        """Take connections from now on. The Future is done when the instance is to end; `ending.why` says why."""
        over = self.ending.begin()
        self._handle = handle
        self.epoll.register(handle, EPOLLIN)
        self.belt.open(conveyor)
        self.belt.take(True)
        self.belt.receive()  # what this instance was started for is there already
        self.settle_soon()
        self.ending.quieten()
        return over

    def dispose(self) -> None:
        """Let go of everything but what `begin` was given."""
        self.ending.dispose()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.belt.dispose()
        self.loop.remove_reader(self.epoll.fileno())
        self.epoll.close()

    def is_busy(self) -> bool:
        return bool(self.connections or self.running or self.sockets)

    # Events

    def _on_epoll(self) -> None:
        connections = self.connections
        poll, read = self.epoll.poll, os.read
        for _ in range(ROUNDS):
            events = poll(0, EVENTS)
            if not events:
                break
            others = 0
            for fd, mask in events:
                connection = connections.get(fd)
                if connection is None:
                    others += 1
                elif mask == EPOLLIN and connection.owner is None:
                    try:
                        data = read(fd, 16384)
                    except BlockingIOError:
                        continue
                    except OSError:
                        data = b""
                    if not data:
                        self.close(connection)
                    elif connection.buffer:
                        self.next_request(connection, connection.buffer + data)
                    else:
                        self.next_request(connection, data)
                else:
                    self._on_event(connection, mask)
            if others:
                # Last, so that a number closed above is not taken for a new connection's.
                self._on_others(events)
        self.settle_soon()

    def _on_event(self, connection: Connection, mask: int) -> None:
        if mask & (EPOLLHUP | EPOLLERR):
            self.close(connection)
            return
        if mask & EPOLLOUT:
            connection.on_writable()
        if mask & EPOLLIN and connection.fd >= 0:
            owner = connection.owner
            if owner is not None:
                owner.on_readable()
            elif data := connection.read():
                self.next_request(connection, connection.buffer + data)
            elif data is not None:
                self.close(connection)

    def _on_others(self, events: list[tuple[int, int]]) -> None:
        if any(fd == self._handle for fd, _ in events):
            order = os.read(self._handle, 64)
            if order == b"D":
                self.ending.drain("drain")
            elif not order:
                # Its other end is kept for the orchestrator when that dies: nobody is there any more.
                self.epoll.unregister(self._handle)
                self.ending.drain("nobody holds the handle")
        self.belt.receive()

    def settle_soon(self) -> None:
        if not self._settling and (self._unsettled or self.belt.done):
            self._settling = True
            self.loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = False
        unsettled, self._unsettled = self._unsettled, []
        for one in unsettled:
            if one.phase != COMPLETE:
                one.settle()
        if self.belt.done:
            self.belt.flush()

    def attend(self, one: Exchange | WebSocket) -> None:
        """Have `settle` called when the program has made its next steps."""
        self._unsettled.append(one)
        if not self._settling:
            self._settling = True
            self.loop.call_soon(self._settle)

    def tell(self, connection: Connection) -> None:
        """The first byte of a response was written: the door may drop its copy of the connection."""
        connection.told = True
        self.belt.done.append(connection.serial)
        if not self._settling:
            self._settling = True
            self.loop.call_soon(self._settle)

    def _sweep(self) -> None:
        self._sweeper = None
        sweep(self, self.time())
        if self.connections:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    # Requests

    def is_full(self) -> bool:
        if self.running >= self.limit or self._queue:
            return True
        return len(self.connections) >= self.room and not make_room(self)

    def is_pressed(self) -> bool:
        """Whether others may be waiting because of those who are slow."""
        return self.running * 2 > self.limit

    def arrived(self, connection: Connection, data: bytes) -> None:
        """A connection was taken from the conveyor, with what the door has read of it."""
        self.connections[connection.fd] = connection
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)
        if data:
            self.next_request(connection, data)
        else:
            connection.since = self.time()
            connection.watch(EPOLLIN)

    def next_request(self, connection: Connection, data: bytes) -> None:
        """Start the request at the beginning of `data`, or wait for the rest of its head."""
        head = parse(data)
        if not isinstance(head, Head):
            self._no_request(connection, data, head)
            return
        line = head.line
        fields = head.fields
        root = self._whole.get(fields.host)
        if root is None:
            root = self.places.root(fields.host, line.path)
            if root is None:
                # A connection's first request was routed by the door, and a service's by the bus: they are ours.
                if connection.told and connection.serial >= 0:
                    self._hand_back(connection, data)
                    return
                root = ""
        if self.running >= self.limit:
            connection.buffer = data
            connection.owner = Waiting(connection)
            self._queue.append(connection)
            return
        size = head.length
        connection.buffer = data[size:] if len(data) != size else b""
        if fields.upgrade == b"websocket" and line.method == "GET" and line.version == "1.1":
            self._start_websocket(connection, line, fields, root)
            return
        exchange = Exchange(self, connection, line, fields)
        connection.owner = exchange
        self.running += 1
        self._unsettled.append(exchange)
        exchange.task = Task(
            exchange.run(
                {
                    "type": "http",
                    "asgi": ASGI,
                    "http_version": line.version,
                    "server": self.address,
                    "client": connection.client,
                    "scheme": connection.scheme,
                    "method": line.method,
                    "root_path": root,
                    "path": line.path,
                    "raw_path": line.raw_path,
                    "query_string": line.query,
                    "headers": fields.headers.copy(),
                    "state": self.state.copy(),
                }
            ),
            loop=self.loop,
        )

    def _start_websocket(self, connection: Connection, line: Line, fields: Fields, root: str) -> None:
        socket = WebSocket(self, connection, fields)
        connection.owner = socket
        if not socket.key:
            self.refuse(connection, Bad(400, "The WebSocket handshake lacks its version 13 or its key."))
            return
        self.running += 1
        self._unsettled.append(socket)
        scope = socket.scope(line, fields, root)
        socket.task = Task(socket.run(scope), loop=self.loop)

    def _no_request(self, connection: Connection, data: bytes, why: Bad | Incomplete) -> None:
        if isinstance(why, Bad):
            self.refuse(connection, why)
        elif connection.eof:
            self.close(connection)
        else:
            if not connection.buffer:
                connection.since = self.time()
            connection.buffer = data
            connection.watch(EPOLLIN)

    def _hand_back(self, connection: Connection, data: bytes) -> None:
        connection.owner = Waiting(connection)
        connection.buffer = data
        connection.watch(0)
        self.belt.hand_back(connection, data)

    def misdirected(self, connection: Connection) -> None:
        """A connection that could not be handed back."""
        self.refuse(connection, Bad(421, "This connection belongs to another host; ask again on a new one."))

    def ended(self) -> None:
        """A program has returned: there is room for another request."""
        self.running -= 1
        if not self.running and not self.connections:
            self.ending.quieten()
        if self.running == self.limit - 1:
            while self._queue and self.running < self.limit:
                connection = self._queue.popleft()
                if connection.fd >= 0:
                    connection.owner = None
                    self.next_request(connection, connection.buffer)
            self._take_again()
            self.settle_soon()

    def _take_again(self) -> None:
        if not self.ending.draining and not self.is_full():
            self.belt.take(True)

    # What becomes of a connection

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
            self._hand_back(connection, connection.buffer)
        elif connection.buffer:
            connection.owner = Waiting(connection)
            self.loop.call_soon(self._resume, connection)
        elif connection.eof or self.ending.draining:
            self.close(connection)
        else:
            connection.since = self.time()
            if connection.mask != EPOLLIN:
                connection.watch(EPOLLIN)

    def _resume(self, connection: Connection) -> None:
        """A pipelined request, which arrived while the one before it was being answered."""
        if connection.fd >= 0:
            connection.owner = None
            data, connection.buffer = connection.buffer, b""
            self.next_request(connection, data)
            self.settle_soon()

    def refuse(self, connection: Connection, bad: Bad, head_only: bool = False) -> None:
        """Answer with an error, and close."""
        connection.owner = None
        data = refusal(bad)
        try:
            connection.write(data[: data.index(b"\r\n\r\n") + 4] if head_only else data)
            self.linger(connection)
        except ClientGone:
            return

    def linger(self, connection: Connection) -> None:
        """Close, when the client has read what was written."""
        connection.buffer = b""
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
        if not connection.told:
            self.tell(connection)
        connection.out = None
        owner, connection.owner = connection.owner, None
        if owner is not None:
            owner.on_gone()
        if connection.waiters:
            connection.wake()
        if not self.connections:
            self.ending.quieten()
        elif len(self.connections) == self.room - MAX_CONNECTIONS:
            self._take_again()
