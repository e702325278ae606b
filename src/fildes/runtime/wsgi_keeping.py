"""The connections of an instance whose program blocks: who looks after them while no call does, and how they end.

Everything here but what is marked otherwise runs in the thread that leads (`wsgi_crew`). The connections'
registrations, `ready` and the belt are its alone; the thread of a long call leaves what is to be done with the
connection in `posted`.
"""

from __future__ import annotations

import os
import resource
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable
from select import EPOLLIN
from typing import Any

from fildes.runtime.belt import Belt
from fildes.runtime.date import Dater
from fildes.runtime.ends import Discarding, Lingering, Waiting
from fildes.runtime.fullness import Fullness
from fildes.runtime.keeping import BODY, CONCURRENCY, HEAD_TIMEOUT, IDLE, KEEP_ALIVE, TIMEOUT
from fildes.runtime.places import Places
from fildes.runtime.tending import make_room, sweep
from fildes.runtime.wsgi_call import Call
from fildes.runtime.wsgi_crew import SWEEP, Crew, make_kick, now
from fildes.runtime.wsgi_ends import Client, Flushing
from fildes.wire.conveyor import MAX_CONNECTIONS, ONCE
from fildes.wire.http import Bad, refusal
from fildes.wire.http_body import Chunked, Sized

DRAIN = 30.0  # s for requests that run

Program = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Keeping:
    """Made in the zygote, without a descriptor; begun in the instance."""

    epoll: select.epoll

    def __init__(self, program: Program, settings: dict[str, Any]) -> None:
        self.program = program
        self.keep_alive = float(settings.get("keep_alive") or KEEP_ALIVE)
        self.head_timeout = float(settings.get("head_timeout") or HEAD_TIMEOUT)
        self.body_limit = int(settings.get("body") or BODY)
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

    def lead(self) -> None:
        """See `wsgi_crew.Work`."""
        raise NotImplementedError

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

    # What becomes of a connection

    def is_full(self, more: int = 0) -> bool:
        if self.waiting or self.crew.running + len(self.ready) + more >= self.crew.limit:
            return True
        return len(self.connections) >= self.room and not make_room(self)  # type: ignore[arg-type]

    def hand_back(self, connection: Client, data: bytes) -> None:
        connection.owner = Waiting(connection)  # type: ignore[arg-type]
        connection.buffer = data
        connection.watch(0)
        self.belt.hand_back(connection, data)  # type: ignore[arg-type]

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
            self.hand_back(connection, connection.buffer)
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
