"""The serving loop of an instance whose program blocks (WSGI): requests are answered in threads.

    Belt ─► arrived ─► next request ─► Call ─► written ─► answered ─► idle ─► next request …
                             │            │        └─► Flushing: the client reads slowly, and no thread waits for it
                             │            └─► in a thread of its own when it takes long (`wsgi_crew`)
                             └─► back to the door: not our host

Everything here but what is marked otherwise runs in the thread that leads. The connections' registrations, `ready` and
the belt are its alone; the thread of a long call leaves what is to be done with the connection in `posted`.
"""

from __future__ import annotations

import os
import resource
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any

from fildes.runtime import wsgi_environ
from fildes.runtime.belt import Belt
from fildes.runtime.date import Dater
from fildes.runtime.ends import Discarding, Lingering, Queued, Waiting
from fildes.runtime.fullness import Fullness
from fildes.runtime.keeping import CONCURRENCY, HEAD_TIMEOUT, IDLE, KEEP_ALIVE
from fildes.runtime.places import Places
from fildes.runtime.tending import make_room, sweep
from fildes.runtime.wsgi_call import Call
from fildes.runtime.wsgi_crew import SWEEP, Crew, make_kick, now
from fildes.runtime.wsgi_ends import Client, Flushing, Gathering
from fildes.runtime.wsgi_input import EMPTY, Input
from fildes.wire.conveyor import FORWARDED, MAX_CONNECTIONS, ONCE
from fildes.wire.http import Bad, Head, Incomplete, parse, refusal
from fildes.wire.http_body import Chunked, Sized
from fildes.wire.http_fields import believed

EVENTS = 128
DRAIN = 30.0  # s for requests that run
BODY_LIMIT = 100 << 20  # bytes
TIMEOUT = 60.0  # s until an answer begins
GATHER = 16384  # bytes of body that are waited for before the program is called: no thread waits for those

Program = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Serving:
    """Made in the zygote, without a descriptor; begun in the instance."""

    epoll: select.epoll

    def __init__(self, program: Program, settings: dict[str, Any]) -> None:
        self.program = program
        self.keep_alive = float(settings.get("keep_alive") or KEEP_ALIVE)
        self.head_timeout = float(settings.get("head_timeout") or HEAD_TIMEOUT)
        self.body_limit = int(settings.get("body") or BODY_LIMIT)
        self.timeout = float(settings.get("timeout") or TIMEOUT)
        self.drain_timeout = float(settings.get("drain") or DRAIN)
        self.idle = float(settings.get("idle") or IDLE)
        self.crew = Crew(self, int(settings.get("concurrency") or CONCURRENCY), settings.get("tasks"))
        self.dater: Dater | None = None  # where a clock was granted
        self.belt = Belt(self, Client)
        self.places = Places(settings.get("hosts") or ())
        self.connections: dict[int, Any] = {}
        self.room = int(settings.get("room") or max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        self.ready: deque[tuple[Client, int]] = deque()  # connections with their events; 0: there is a whole request
        self.posted: deque[Callable[[], object]] = deque()  # filled by any thread
        self.waiting: deque[Client] = deque()  # requests for which there is no thread
        self.calls: set[Call] = set()  # of other threads than the leader's; under the crew's lock
        # What Framing, Belt and the ends ask a serving loop for.
        self.ending = self
        self.loop = self
        self.draining = False
        self.why = ""
        self._handle = -1
        self.on_idle: Callable[[], object] | None = None  # instead of ending then
        self._deadline = 0.0
        self._quiet_since = 0.0
        self._swept = 0.0
        self._timers: list[tuple[float, Callable[[], object]]] = []

    # Beginning and end

    def begin(self, conveyor: int, handle: int) -> None:
        """Take connections from now on; `crew.run` serves them."""
        self.epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._handle = handle
        self.epoll.register(self._bell, EPOLLIN)
        self.epoll.register(handle, EPOLLIN)
        self.crew.kick = make_kick(self.crew, self._bell)
        self.crew.now = self._quiet_since = now()
        self.belt.open(conveyor)
        self.belt.fullness = Fullness(handle, self.call_later)
        self.belt.take(True)
        self.belt.receive()

    def dispose(self) -> None:
        """Let go of everything but what `begin` was given."""
        self.belt.dispose()
        self.epoll.close()
        os.close(self._bell)

    def drain(self, why: str) -> None:
        """Take nothing new, close what is idle, finish what runs."""
        if self.draining:
            return
        self.draining = True
        self.why = why
        self._deadline = self.crew.now + self.drain_timeout
        self.belt.take(False)
        for connection in list(self.connections.values()):
            owner = connection.owner
            if owner is not None:
                owner.on_drain()
            elif connection.read_on():  # it came just before we close
                self.ready.append((connection, 0))
            else:
                self.close(connection)
        self.crew.ring()

    def _is_busy(self) -> bool:
        """In any thread."""
        crew = self.crew
        return bool(self.connections or crew.running or crew.inside or self.ready or self.posted)

    # The main thread

    def tick(self, now: float) -> float:
        """What is due. Seconds until there is something again."""
        if self.draining and (not self._is_busy() or now >= self._deadline):
            self.crew.end()
            return 0
        for timer in [timer for timer in self._timers if timer[0] <= now]:
            self._timers.remove(timer)
            self.post(timer[1])
        wait = self._look_around(now)
        return min([wait, *[max(0.0, due - now) for due, _ in self._timers.copy()]])

    def _look_around(self, now: float) -> float:
        if now - self._swept >= SWEEP:
            self._swept = now
            self._look_for_late(now)
            if self.connections:
                self.post(lambda: sweep(self, self.crew.now))  # type: ignore[arg-type]
        if self.draining:
            return min(SWEEP, self._deadline - now)
        if self._is_busy():
            self._quiet_since = now
            return SWEEP
        left = self._quiet_since + self.idle - now
        if left <= 0:
            if self.on_idle is not None:
                self._quiet_since = now
                self.on_idle()
                return self.idle
            self.post(lambda: self.drain("idle") if not self._is_waited_for() else None)
            return SWEEP
        return left

    def _is_waited_for(self) -> bool:
        return bool(self.connections or self.crew.running)

    def _look_for_late(self, now: float) -> None:
        """Tell whoever waits for an answer that has not begun."""
        crew = self.crew
        with crew.lock:
            for call in self.calls:
                if not call.begun and not call.abandoned and now - call.since > self.timeout:
                    call.abandoned = True
                    text = f"The program did not begin to answer in {self.timeout:g} s. It may be overloaded."
                    call.connection.last_words(refusal(Bad(504, text)))
                    self.tell(call.connection)
                    self.posted.append(self.belt.flush)
            stuck = self.calls and len(self.calls) >= crew.limit and all(call.abandoned for call in self.calls)
        crew.kick()
        if stuck:
            print(
                f"fildes: none of {crew.limit} requests at once was answered in {self.timeout:g} s: the instance ends",
                file=sys.stderr,
            )
            crew.end(SystemExit(70))

    # For any thread

    def post(self, act: Callable[[], object]) -> None:
        """Have the leader do it."""
        self.posted.append(act)
        self.crew.kick()

    def time(self) -> float:
        return self.crew.now

    def is_pressed(self) -> bool:
        return self.crew.running * 2 > self.crew.limit

    def tell(self, connection: Any) -> None:
        """The first byte of a response was written: the door may drop its copy of the connection."""
        if not connection.told:
            connection.told = True
            self.belt.done.append(connection)

    def call_later(self, delay: float, act: Callable[[], object]) -> None:
        """For the belt. The main thread has `act` done by the leader."""
        self._timers.append((self.crew.now + delay, act))
        self.crew.ring()

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

    def is_full(self) -> bool:
        if self.waiting or self.crew.running + len(self.ready) >= self.crew.limit:
            return True
        return len(self.connections) >= self.room and not make_room(self)  # type: ignore[arg-type]

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
                    self._hand_back(connection, data)
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

    def _hand_back(self, connection: Client, data: bytes) -> None:
        connection.owner = Waiting(connection)  # type: ignore[arg-type]
        connection.buffer = data
        connection.watch(0)
        self.belt.hand_back(connection, data)  # type: ignore[arg-type]

    # What becomes of a connection

    def written(self, connection: Client, rest: bytes | memoryview, keep: bool, reader: Sized | Chunked | None) -> None:
        """The last of a response was written, but for `rest`."""
        self.tell(connection)
        if rest:
            connection.out = memoryview(rest)
            connection.owner = Flushing(self, connection, lambda: self.answered(connection, keep, reader))
        else:
            self.answered(connection, keep, reader)

    def answered(self, connection: Any, keep: bool, reader: Sized | Chunked | None) -> None:
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
            connection.owner = discarding = Discarding(self, connection, reader)  # type: ignore[arg-type]
            if connection.buffer:
                discarding.on_readable()
        elif connection.flags & ONCE:
            self._hand_back(connection, connection.buffer)
        elif connection.buffer:
            self.ready.append((connection, 0))
        elif connection.eof or self.draining:
            self.close(connection)
        else:
            connection.since = self.crew.now
            if connection.mask != EPOLLIN:
                connection.watch(EPOLLIN)

    def refuse(self, connection: Any, bad: Bad, head_only: bool = False, extra: str = "") -> None:
        """Answer with an error, and close. `extra` is header lines, each ending in CRLF."""
        connection.owner = None
        data = refusal(bad, extra)
        if connection.finish(data[: data.index(b"\r\n\r\n") + 4] if head_only else data):
            self.linger(connection)
        elif connection.fd >= 0:
            connection.owner = Flushing(self, connection, lambda: self.linger(connection))

    def misdirected(self, connection: Any) -> None:
        """A connection that could not be handed back."""
        self.refuse(connection, Bad(421, "This connection belongs to another host; ask again on a new one."))

    def linger(self, connection: Any) -> None:
        """Close, when the client has read what was written."""
        connection.buffer = b""
        connection.owner = None
        try:
            connection.owner = Lingering(self, connection)  # type: ignore[arg-type]
        except OSError:
            self.close(connection)

    def close(self, connection: Any) -> None:
        fd, connection.fd = connection.fd, -1
        if fd < 0:
            return
        if connection.mask >= 0:
            # The door may hold a copy still: closing ours would leave the registration behind.
            self.epoll.unregister(fd)
            connection.mask = -1
        del self.connections[fd]
        os.close(fd)
        if connection.kept:
            self.belt.done.append(connection)
        self.tell(connection)
        connection.out = None
        owner, connection.owner = connection.owner, None
        if owner is not None:
            owner.on_gone()
        if not self.connections:
            if self.draining:
                self.crew.ring()
        elif len(self.connections) == self.room - MAX_CONNECTIONS and not self.draining and not self.is_full():
            self.belt.take(True)
