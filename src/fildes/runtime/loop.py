"""The serving loop of an instance: requests are answered on the connections that the conveyor brings.

One nested epoll holds all connections; the event loop outside (uvloop or asyncio) sees one descriptor. In a round:
read what is ready, parse, start a task a request. When their first steps have run, `_settle` tells the door which
connections were answered, and looks after the requests that are not finished. A connection that is answered and
closed in its first round is never registered anywhere.

    Belt ─► arrived ─► next_request ─► Exchange or WebSocket (`owner`) ─► answered ─► idle ─► next_request …
                            │                                  │             ├─► close, or Lingering
                            ├─► Queued: all places taken       │             └─► Discarding: a body nobody read
                            └─► back to the door: not ours     └─► Sending: a client that is slow to read
"""

from __future__ import annotations

import functools
import os
import sys
from asyncio import AbstractEventLoop, Future, Task
from collections import deque
from collections.abc import Awaitable, Callable
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any

from fildes.runtime.connection import Connection
from fildes.runtime.date import Dater
from fildes.runtime.ends import Queued, Waiting
from fildes.runtime.exchange import ASGI, BODY_PATIENCE, Exchange, too_large
from fildes.runtime.fullness import Fullness
from fildes.runtime.keeping import Keeping
from fildes.runtime.places import Places
from fildes.runtime.tending import make_room
from fildes.runtime.websocket import WebSocket
from fildes.wire.conveyor import FORWARDED
from fildes.wire.http import Bad, Fields, Head, Incomplete, Line, parse
from fildes.wire.http_fields import believed

ROUNDS = 4  # of the nested epoll, before other things in the loop get their turn
EVENTS = 128  # in all of them: what is ready is begun at once

Program = Callable[..., Awaitable[Any]]

# From 3.12 on a task can take its first steps at once: most requests are answered in them.
_begin: Any = Task
if sys.version_info >= (3, 12):
    _begin = functools.partial(Task, eager_start=True)


class Serving(Keeping):
    """Made in the zygote (it opens the nested epoll), begun in the instance."""

    def __init__(self, loop: AbstractEventLoop, program: Program, settings: dict[str, Any]) -> None:
        super().__init__(loop, settings)
        self.program = program
        self.dater: Dater | None = None  # where a clock was granted
        self.body_patience = float(settings.get("body_patience") or BODY_PATIENCE)
        self.places = Places(settings.get("hosts") or ())
        self._whole = self.places.whole
        self.address = (self.places.first or str(settings.get("service", "")), 80)
        self.state: dict[str, Any] = {}  # of the lifespan
        self._handle = -1
        self._queue: deque[Connection] = deque()  # with a request that waits for its turn
        loop.add_reader(self.epoll.fileno(), self._on_epoll)

    # Beginning and end

    def begin(self, conveyor: int, handle: int) -> Future[None]:
        """Take connections from now on. The Future is done when the instance is to end; `ending.why` says why."""
        over = self.ending.begin()
        self.now = self.time()
        self._handle = handle
        self.epoll.register(handle, EPOLLIN)
        self.belt.open(conveyor)
        self.belt.fullness = Fullness(handle, self.loop.call_later)
        self.belt.take(True)
        self.belt.receive()  # what this instance was started for is there already
        self.settle_soon()
        self.ending.quieten()
        return over

    def dispose(self) -> None:
        """Let go of everything but what `begin` was given."""
        self.ending.dispose()
        self.debts.dispose()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.belt.dispose()
        self.loop.remove_reader(self.epoll.fileno())
        self.epoll.close()

    # Events

    def _on_epoll(self) -> None:
        connections = self.connections
        poll, read = self.epoll.poll, os.read
        self.now = self.time()
        self.round = True
        left = EVENTS
        for _ in range(ROUNDS):
            if not left or not (events := poll(0, left)):
                break
            left -= len(events)
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
            if self.posts:
                self.dispatch()
        self.round = False
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
            elif order == b"?" and self.belt.fullness is not None:
                self.belt.fullness.say()
            elif not order:
                # Its other end is kept for the orchestrator when that dies: nobody is there any more.
                self.epoll.unregister(self._handle)
                self.ending.drain("nobody holds the handle")
        self.belt.receive()

    # Requests

    def is_full(self, more: int = 0) -> bool:
        if self.running + more >= self.limit or self._queue or self.debts.are_high():
            return True
        return len(self.connections) >= self.room and not make_room(self)

    def next_request(self, connection: Connection, data: bytes) -> None:
        """Start the request at the beginning of `data`, or wait for the rest of its head."""
        head = parse(data)
        if not isinstance(head, Head):
            self._no_request(connection, data, head)
            return
        line = head.line
        fields = head.fields
        if fields.forwarded and connection.flags & FORWARDED:
            fields = believed(fields)
        root = self._whole.get(fields.host)
        if root is None:
            root = self.places.root(fields.host, line.path)
            if root is None:
                # A connection's first request was routed by the door, and a service's by the bus: they are ours.
                if connection.told and connection.serial >= 0:
                    self.hand_back(connection, data)
                    return
                root = ""
        if self.running >= self.limit or self.debts.are_high():
            connection.buffer = data
            connection.owner = Queued(self, connection)
            self._queue.append(connection)
            return
        size = head.length
        connection.buffer = data[size:] if len(data) != size else b""
        if fields.upgrade == b"websocket" and line.method == "GET" and line.version == "1.1":
            self._start_websocket(connection, line, fields, root)
            return
        if fields.content_length and fields.content_length > self.body:
            self.refuse(connection, too_large(self.body), line.method == "HEAD")
            return
        exchange = Exchange(self, connection, line, fields)
        connection.owner = exchange
        self.running += 1
        scope = {
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
        if exchange.trailers:
            scope["extensions"] = {"http.response.trailers": {}}
        task = _begin(exchange.run(scope), loop=self.loop)
        if not task.done():
            exchange.task = task
            self._unsettled.append(exchange)

    def _start_websocket(self, connection: Connection, line: Line, fields: Fields, root: str) -> None:
        socket = WebSocket(self, connection, fields)
        connection.owner = socket
        if not socket.key:
            if socket.version in (b"", b"13"):
                self.refuse(
                    connection, Bad(400, "The WebSocket handshake lacks its key or its version, or has a body.")
                )
            else:  # RFC 6455 4.4
                extra = "upgrade: websocket\r\nsec-websocket-version: 13\r\n"
                self.refuse(connection, Bad(426, "The version of WebSocket spoken here is 13."), extra=extra)
            return
        self.running += 1
        task = _begin(socket.run(socket.scope(line, fields, root)), loop=self.loop)
        if not task.done():
            socket.task = task
            self._unsettled.append(socket)

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

    def hand_back(self, connection: Connection, data: bytes) -> None:
        connection.owner = Waiting(connection)
        connection.buffer = data
        connection.watch(0)
        self.belt.hand_back(connection, data)

    def ended(self) -> None:
        """A program has returned, or lent its place: there is room for another request."""
        self.running -= 1
        if not self.running and not self.connections:
            self.ending.quieten()
        if self.running == self.limit - 1:
            # Not here: the next program may take its first steps at once, and end, and so on.
            self.loop.call_soon(self.next_turns)

    def next_turns(self) -> None:
        while self._queue and self.running < self.limit and not self.debts.are_high():
            connection = self._queue.popleft()
            if connection.fd >= 0:
                connection.owner = None
                self.next_request(connection, connection.buffer)
        self.take_again()
        self.settle_soon()
