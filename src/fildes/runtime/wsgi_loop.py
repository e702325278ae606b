"""The serving loop of an instance whose program blocks (WSGI): requests are answered in threads.

Belt ─► arrived ─► next request ─► Call ─► written ─► answered ─► idle ─► next request …
                         │            │        └─► Flushing: the client reads slowly, and no thread waits for it
                         │            └─► in a thread of its own when it takes long (`wsgi_crew`)
                         └─► back to the door: not our host
"""

from __future__ import annotations

import os
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any

from fildes.runtime import wsgi_environ
from fildes.runtime.ends import Queued
from fildes.runtime.wsgi_call import Call
from fildes.runtime.wsgi_crew import now
from fildes.runtime.wsgi_ends import Client, Gathering
from fildes.runtime.wsgi_input import EMPTY, Input
from fildes.runtime.wsgi_keeping import Keeping, Program
from fildes.wire.conveyor import FORWARDED
from fildes.wire.http import Bad, Head, Incomplete, parse
from fildes.wire.http_fields import believed

EVENTS = 128
GATHER = 16384  # bytes of body that are waited for before the program is called: no thread waits for those

__all__ = ["Program", "Serving"]


class Serving(Keeping):
    """What the thread that leads does: events and requests."""

    # The lead

    def lead(self) -> None:
        """Serve; returns when the lead was lost and the call that cost it has ended, or when all is over."""
        crew, ready, posted = self.crew, self.ready, self.posted
        while not crew.over:
            if ready:
                connection, mask = ready.popleft()
                if connection.fd >= 0 and not self._attend(connection, mask):
                    return
                continue
            while posted:
                posted.popleft()()
            self._before_waiting()
            if ready:
                continue
            crew.polling = True
            events = [] if posted else self.epoll.poll(-1, EVENTS)
            crew.polling = False
            self._sort(events)

    def turn(self) -> None:
        """One round without waiting, for the zygote."""
        self._sort(self.epoll.poll(0, EVENTS))
        while self.ready:
            self._attend(*self.ready.popleft())
        self._before_waiting()

    def _sort(self, events: list[tuple[int, int]]) -> None:
        connections = self.connections
        others = False
        for fd, mask in events:
            connection = connections.get(fd)
            if connection is None:
                others = True
            else:
                self.ready.append((connection, mask))
        if others:
            self._on_others(events)

    def _on_others(self, events: list[tuple[int, int]]) -> None:
        for fd, _ in events:
            if fd == self._bell:
                os.eventfd_read(self._bell)
            elif fd == self._handle:
                try:
                    order = os.read(self._handle, 64)
                except OSError:  # it was closed with a word of ours unread
                    order = b""
                if order == b"D":
                    self.drain("drain")
                elif order == b"?" and self.belt.fullness is not None:
                    self.belt.fullness.say()
                elif not order:
                    # Its other end is kept for the orchestrator when that dies: nobody is there any more.
                    self.epoll.unregister(self._handle)
                    self.drain("nobody holds the handle")
        self.belt.receive()

    def _before_waiting(self) -> None:
        while self.waiting and self.crew.running < self.crew.limit:
            connection = self.waiting.popleft()
            if connection.fd >= 0:
                connection.owner = None
                self.ready.append((connection, 0))
        if self.belt.done:
            self.belt.flush()
        if not self.draining and not self.is_full():
            self.belt.take(True)

    def arrived(self, connection: Any, data: bytes) -> None:
        """A connection was taken from the conveyor, with what the door has read of it."""
        self.connections[connection.fd] = connection
        connection.since = self.crew.now
        if self.crew.asleep:
            self.crew.rouse()  # from now on there is something to look after
        if data:
            connection.buffer = data
            self.ready.append((connection, 0))
        else:
            connection.watch(EPOLLIN)

    # Requests

    def _attend(self, connection: Client, mask: int) -> bool:
        """Whether this thread still leads afterwards."""
        owner = connection.owner
        if mask == EPOLLIN and owner is None:
            try:
                data = os.read(connection.fd, 16384)
            except BlockingIOError:
                return True
            except OSError:
                data = b""
            if data:
                return self._request(connection, connection.buffer + data if connection.buffer else data)
            self.close(connection)
        elif not mask:
            if owner is None:
                return self._request(connection, connection.buffer)
        elif mask & (EPOLLHUP | EPOLLERR):
            self.close(connection)
        else:
            if mask & EPOLLOUT and owner is not None:
                owner.on_writable()
            if mask & EPOLLIN and connection.fd >= 0:
                if connection.owner is not None:
                    connection.owner.on_readable()
                elif connection.read_on():
                    return self._request(connection, connection.buffer)
                elif connection.eof:
                    self.close(connection)
        return True

    def _request(self, connection: Client, data: bytes) -> bool:
        """Answer the request at the beginning of `data`, or wait for the rest of its head."""
        head = parse(data)
        if not isinstance(head, Head):
            self._no_request(connection, data, head)
            return True
        line, fields = head.line, head.fields
        if fields.forwarded and connection.flags & FORWARDED:
            fields = believed(fields)
        root = self.places.whole.get(fields.host)
        if root is None:
            root = self.places.root(fields.host, line.path)
            if root is None:
                # A connection's first request was routed by the door, and a service's by the bus: they are ours.
                if connection.told and connection.serial >= 0:
                    self.hand_back(connection, data)
                    return True
                root = ""
        size = head.length
        length = fields.content_length
        if length:
            if length > self.body_limit:
                self.refuse(connection, Bad(413, f"The body of the request is larger than {self.body_limit} bytes."))
                return True
            if len(data) - size < length <= GATHER and not fields.expect_continue:
                connection.buffer = data
                connection.owner = Gathering(self, connection, size + length)
                return True
        crew = self.crew
        if crew.running >= crew.limit:
            connection.buffer = data
            connection.owner = Queued(self, connection)  # type: ignore[arg-type]
            connection.park()
            self.waiting.append(connection)
            return True
        connection.buffer = data[size:] if len(data) != size else b""
        call = Call(self, connection, line, fields)
        connection.owner = call
        environ = wsgi_environ.make(line, fields, root, connection.client, connection.scheme)
        environ["wsgi.input"] = EMPTY if call.reader is None else Input(call.more)
        return self._call(call, environ)

    def _call(self, call: Call, environ: dict[str, Any]) -> bool:
        crew = self.crew
        began = 0.0
        crew.turn += 1
        if crew.slow:
            began = now()
            with crew.lock:
                call.inline = False
                call.lose(began)
                crew.pass_on()
        else:
            crew.inside = call.armed = True
            crew.slot.append(call)
        if crew.asleep:
            crew.rouse()
        call.run(environ)
        if call.inline:
            crew.inside = False
            return True
        with crew.lock:
            self.calls.discard(call)
            if began:
                crew.judge(now() - began)
        return False

    def _no_request(self, connection: Client, data: bytes, why: Bad | Incomplete) -> None:
        if isinstance(why, Bad):
            self.refuse(connection, why)
        elif connection.eof:
            self.close(connection)
        else:
            if not connection.buffer or connection.mask < 0:
                connection.since = self.crew.now
            connection.buffer = data
            connection.watch(EPOLLIN)
