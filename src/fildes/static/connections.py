"""The connections that static owns: read requests, write Plans, one epoll for all of them.

A request whose bytes were seen before costs a read, a look-up and a write. Whatever has to wait (a slow reader, a head
in pieces, a pack that is being opened) is remembered in its Connection; an idle one holds nothing but that object.
"""

from __future__ import annotations

import math
import os
import select
import socket
from collections.abc import Iterator
from typing import Final

from fildes.kernel.loop import EPOLLIN, EPOLLOUT, Loop
from fildes.static import answer
from fildes.static.connection import (
    HEAD,
    HEAD_SECONDS,
    HELD,
    IDLE,
    IDLE_SECONDS,
    LINGER_SECONDS,
    LINGERING,
    PATIENCE,
    STALL_SECONDS,
    WRITING,
    Connection,
    Decider,
)
from fildes.static.hot import Hot
from fildes.static.plan import Plan, now
from fildes.wire.http import Bad, Head, Incomplete, parse

_SWEEP: Final = 1.0  # seconds at least between looks at who is late
_READ: Final = 16 * 1024
_PIECE: Final = 1 << 20  # of a file, before others get their turn
_ROUNDS: Final = 4
_EVENTS: Final = 128
_HOT_REQUEST: Final = 2048  # bytes of a request that is remembered
_SECRET: Final = frozenset((b"cookie", b"authorization", b"proxy-authorization"))

_SocketType = socket.SocketType


class Connections:
    def __init__(self, loop: Loop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._decider: Decider | None = None
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._watched: dict[int, int] = {}  # number → events
        self._next_sweep = math.inf
        self._time = loop.time()
        self._second = now()
        # Of requests that may be answered on any connection, and of those only a fresh one may bring.
        self.hot, self.hot_fresh = Hot(), Hot()
        self.requests = 0
        loop.watch(self._epoll.fileno(), EPOLLIN, self._on_ready)

    def decide_with(self, decider: Decider) -> None:
        self._decider = decider

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    @property
    def full(self) -> bool:
        return len(self._connections) >= self._limit

    def tick(self) -> None:
        """Look at the clocks; once a batch."""
        self._time = self._loop.time()
        self._second = now()

    # — coming —

    def arrived(self, number: int, serial: int, once: bool, data: bytes) -> bool:
        """Own a connection and what was read of it. Whether an answer was begun (else it will be told later)."""
        connection = Connection(number, serial, once, self._time)
        self._connections[number] = connection
        self._expect(IDLE_SECONDS)
        plan = self.hot.get(data)
        if plan is None and (plan := self.hot_fresh.get(data)) is not None:
            connection.once = True
        if plan is not None:
            self._send(connection, plan)
            self._after(connection)
        else:
            connection.buffer = data
            self._process(connection)
        return connection.state != HELD

    def adopt(self, connection: Connection) -> None:
        """Own one in the middle of its answer, and write on."""
        self.tick()
        connection.since = self._time
        self._connections[connection.number] = connection
        self._write_on(connection)
        if connection.state == WRITING:
            self._after(connection)

    def _on_ready(self, _: int) -> None:
        self.tick()
        connections = self._connections
        for _ in range(_ROUNDS):
            events = self._epoll.poll(0, _EVENTS)
            if not events:
                return
            for number, happened in events:
                connection = connections.get(number)
                if connection is None:
                    continue
                if connection.state == WRITING:
                    self._write_on(connection)
                elif connection.state == LINGERING:
                    self._drain(connection)
                elif happened:
                    self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = os.read(connection.number, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(connection)
            return
        if connection.once and not connection.fresh and self._decider is not None:
            connection.buffer += data
            self._decider.hand_back(connection)  # only the door knows all routes of this host
            return
        if not connection.buffer:
            plan = self.hot.get(data)
            if plan is not None:
                self._send(connection, plan)
                if connection.state != IDLE or connection.closing:
                    self._after(connection)
                return
            connection.buffer = data
            connection.since = self._time
        else:
            connection.buffer += data
            # Parsed when it can be complete, so that a trickle costs no more than its bytes.
            if len(connection.buffer) < 65536 and connection.buffer.find(b"\r\n\r\n", -len(data) - 3) < 0:
                return
        self._process(connection)

    def _process(self, connection: Connection) -> None:
        """Answer the requests in the buffer, as far as the client takes the answers."""
        while connection.buffer and not connection.closing:
            data = connection.buffer
            head = parse(data)
            if isinstance(head, Incomplete):
                connection.state = HEAD
                self._expect(HEAD_SECONDS)
                self._watch(connection, EPOLLIN)
                return
            if isinstance(head, Bad):
                connection.buffer = b""
                self._send(connection, answer.refused(head))
                break
            plan = self._decide(connection, head)
            if plan is None:
                return
            connection.buffer = data[head.length :]
            connection.fresh = False
            if not connection.buffer:
                self._remember(data, head, plan, connection)
            self._send(connection, plan)
            if connection.state == WRITING:
                break
        self._after(connection)

    def _decide(self, connection: Connection, head: Head) -> Plan | None:
        if self._decider is None:
            return answer.unavailable(head)
        return self._decider.plan(connection, head)

    def _remember(self, data: bytes, head: Head, plan: Plan, connection: Connection) -> None:
        if len(data) <= _HOT_REQUEST and not plan.passing and _SECRET.isdisjoint(name for name, _ in head.headers):
            (self.hot_fresh if connection.once else self.hot).put(data, plan)

    # — answering —

    def _send(self, connection: Connection, plan: Plan) -> None:
        """Write as much as goes at once."""
        self.requests += 1
        connection.fresh = False
        connection.since = self._time
        connection.closing = plan.close
        if plan.site is None:
            data = plan.stamped(self._second)
            try:
                sent = os.write(connection.number, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                connection.closing = True
                connection.buffer = b""
                return
            if sent == len(data):
                connection.state = IDLE
                return
            connection.out = memoryview(data)[sent:]
            connection.state = WRITING
        else:
            plan.site.use()
            connection.site, connection.offset, connection.count = plan.site, plan.offset, plan.count
            connection.out = plan.stamped(self._second)
            connection.state = WRITING
            self._push(connection)

    def _push(self, connection: Connection) -> bool:
        """Go on with what is unsent. False: the client is gone, and the connection closed."""
        try:
            if connection.out:
                # No MSG_MORE before a sendfile: measured, it costs 12 µs more for 100 KB than it spares.
                sent = os.write(connection.number, connection.out)
                connection.since = self._time
                if sent < len(connection.out):
                    connection.out = memoryview(connection.out)[sent:]
                    return True
                connection.out = b""
            if connection.site is not None:
                piece = min(connection.count, _PIECE)
                sent = os.sendfile(connection.number, connection.site.fileno(), connection.offset, piece)
                connection.since = self._time
                connection.offset += sent
                connection.count -= sent
                if connection.count and sent:
                    return True
                connection.site.done()
                connection.site = None
                if not sent:
                    raise ConnectionResetError  # a pack shorter than its index says
        except BlockingIOError:
            return True
        except OSError:
            self._forget(connection)
            connection.closing = True
            connection.state = IDLE
            connection.buffer = b""
            return False
        connection.state = IDLE
        return True

    def _write_on(self, connection: Connection) -> None:
        self._push(connection)
        if connection.state != WRITING:
            if connection.buffer and not connection.closing:
                self._process(connection)
            else:
                self._after(connection)

    def _after(self, connection: Connection) -> None:
        """Watch for what comes next, or end."""
        if connection.state == WRITING:
            self._expect(STALL_SECONDS)
            self._watch(connection, EPOLLOUT)
        elif connection.closing:
            self._finish(connection)
        else:
            connection.state = IDLE
            self._watch(connection, EPOLLIN)

    def resume(self, connection: Connection) -> None:
        """What a held connection waited for has come."""
        if self._connections.get(connection.number) is connection and connection.state == HELD:
            self.tick()
            connection.state = IDLE
            self._process(connection)

    def hold(self, connection: Connection) -> None:
        """Until `resume`."""
        connection.state = HELD
        self._expect(PATIENCE[HELD])
        self._unwatch(connection)

    # — ends —

    def _finish(self, connection: Connection) -> None:
        """The last answer is written. Closing with bytes unread would reset it away (RFC 9112 9.6)."""
        sock = _SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, connection.number)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            connection.state = IDLE
            self.close(connection)
            return
        finally:
            sock.detach()
        connection.state = LINGERING
        connection.since = self._time
        self._expect(LINGER_SECONDS)
        self._watch(connection, EPOLLIN)

    def _drain(self, connection: Connection) -> None:
        try:
            for _ in range(4):
                if not os.read(connection.number, 65536):
                    break
            else:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close(connection)

    def _forget(self, connection: Connection) -> None:
        if connection.site is not None:
            connection.site.done()
            connection.site = None
        connection.out = b""

    def release(self, connection: Connection) -> tuple[int, bytes]:
        """Give up ownership: the descriptor and what was read, both the caller's."""
        self._unwatch(connection)
        self._connections.pop(connection.number, None)
        self._forget(connection)
        return connection.number, connection.buffer

    def close(self, connection: Connection) -> None:
        number, _ = self.release(connection)
        os.close(number)

    def close_all(self) -> None:
        for connection in list(self._connections.values()):
            self.close(connection)
        self._loop.unwatch(self._epoll.fileno())
        self._epoll.close()

    def _watch(self, connection: Connection, events: int) -> None:
        number = connection.number
        watched = self._watched.get(number)
        if watched is None:
            self._epoll.register(number, events)
        elif watched != events:
            self._epoll.modify(number, events)
        else:
            return
        self._watched[number] = events

    def _unwatch(self, connection: Connection) -> None:
        if self._watched.pop(connection.number, None) is not None:
            self._epoll.unregister(connection.number)

    def make_room(self) -> None:
        """Close the connection that has been idle longest, if any is."""
        idle = [c for c in self._connections.values() if c.state == IDLE]
        for connection in sorted(idle, key=lambda c: c.since)[: max(1, self._limit // 64)]:
            self.close(connection)

    def _expect(self, seconds: float) -> None:
        """Somebody may be late in `seconds`: look then, if that is sooner than the next look."""
        when = self._time + seconds
        if when < self._next_sweep - _SWEEP:
            self._next_sweep = when
            self._loop.call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        self.tick()
        if self._time < self._next_sweep - 0.01:
            return  # one that was appointed before a sooner one
        self._next_sweep = math.inf
        late = [c for c in self._connections.values() if self._time - c.since > PATIENCE[c.state] - 0.01]
        for connection in late:
            if connection.state == HEAD:
                connection.buffer = b""
                text = f"The head of the request did not arrive within {HEAD_SECONDS:g} seconds."
                self._send(connection, answer.refused(Bad(408, text)))
                self._after(connection)
            else:
                self.close(connection)
        if self._connections:
            due = min(c.since + PATIENCE[c.state] for c in self._connections.values())
            self._expect(max(due - self._time, _SWEEP))
