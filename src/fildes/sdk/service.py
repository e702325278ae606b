"""What the `main` of a service is given (runtime = "service").

    def main(caps):
        while not caps.wait(60):             # a minute, or until it is to stop
            report(caps.clock.time())        # a grant, by its name

    async def main(caps):
        async for caller, stream in caps.aio.accepted():     # those whom [offers] lets in
            ...

`main` runs until it returns (done: exit status 0), raises (a crash: it is started again, up to a limit), or is told to
stop: then `wait` is True, `accept` gives None, and callbacks of `on_stop` are called. It has 30 seconds to return.
A `main` that asks for none of these is interrupted: KeyboardInterrupt, or the cancellation of its task.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

from fildes.sdk import aio
from fildes.sdk.errors import Denied
from fildes.sdk.program import Face, Grant, current
from fildes.wire import conveyor

_ROOM = socket.CMSG_SPACE(4 * conveyor.MAX_CONNECTIONS)
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class Accepted(NamedTuple):
    """A stream from another service that this one offers itself to."""

    caller: str  # the service at the other end
    stream: socket.socket


class Caps:
    """The capabilities of a service, and its end. For `main`, and for all threads that it starts.

    `caps.NAME`, `caps["NAME"]` and `caps.open("NAME")` are what was granted under NAME, as `sdk.open` gives it.
    """

    def __init__(self, conveyor_end: socket.socket) -> None:
        self._conveyor = conveyor_end
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # readable for good, once it is to stop
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._stopping = False
        self._asked = False  # whether the program looks out for that
        self.aio = AioCaps(self)

    # Grants

    def open(self, name: str) -> Face:
        """May block for a round trip: in coroutines use `await caps.aio.open(name)`. Raises Denied, Unavailable."""
        return current().open(name)

    def __getitem__(self, name: str) -> Face:
        return self.open(name)

    def __getattr__(self, name: str) -> Face:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.open(name)
        except Denied as denied:
            raise AttributeError(str(denied)) from denied

    def __contains__(self, name: object) -> bool:
        return any(grant.name == name for grant in self.grants())

    def __iter__(self) -> Iterator[str]:
        return (grant.name for grant in self.grants())

    def grants(self) -> tuple[Grant, ...]:
        """What the manifest grants."""
        return current().grants()

    # The end

    @property
    def stopping(self) -> bool:
        """Whether it is to stop. To be looked at again and again."""
        self._asked = True
        return self._stopping

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep so long, or until it is to stop: whether it is. None: until then."""
        self._asked = True
        return self._ready(seconds) == self._stop

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Have it called when it is to stop, before `wait` says so, in another thread (in the loop of an `async def`
        main). Called at once when it was told already.
        """
        self._asked = True
        with self._lock:
            late = self._stopping
            self._callbacks.append(callback)
        if late:
            callback()

    # Streams

    def accept(self, timeout: float | None = None) -> Accepted | None:
        """The next stream of another service, blocking; None after `timeout` seconds, or when it is to stop."""
        self._asked = True
        while True:
            found = self._receive()
            if found is not None:
                found.stream.setblocking(True)
                return found
            if self._ready(timeout, self._conveyor.fileno()) != self._conveyor.fileno():
                return None

    def accepted(self) -> Iterator[Accepted]:
        """Each stream as it comes, until it is to stop."""
        while (found := self.accept()) is not None:
            yield found

    def _ready(self, seconds: float | None, other: int = -1) -> int:
        """The descriptor that is readable, the one of the stop first; −1 when the time is over."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        if other >= 0:
            poll.register(other, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if seconds is None else max(0, seconds) * 1000)]
        return -1 if not ready else self._stop if self._stop in ready else ready[0]

    def _receive(self) -> Accepted | None:
        """A stream that waits on the conveyor. What else comes there is closed."""
        while not self._stopping:
            try:
                data, control, _, _ = self._conveyor.recvmsg(conveyor.MAX_DATAGRAM, _ROOM, _FLAGS)
            except BlockingIOError:
                return None
            fds = array.array("i")
            for level, kind, payload in control:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(payload[: len(payload) & ~3])
            try:
                arrived = conveyor.decode_inward(data, len(fds))
            except ValueError:
                arrived = []
            if isinstance(arrived, conveyor.Introduction):
                return Accepted(arrived.caller, socket.socket(fileno=fds[0]))
            for fd in fds:
                os.close(fd)
            if not data and not fds:
                return None
        return None

    # For the runtime

    def _tell(self) -> list[Callable[[], object]]:
        """It is to stop. Who is to be called, before `_wake`."""
        with self._lock:
            self._stopping = True
            return self._callbacks.copy()

    def _wake(self) -> None:
        os.eventfd_write(self._stop, 1)


class AioCaps:
    """The same for coroutines, as `caps.aio`."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._waiters: dict[int, list[asyncio.Future[int]]] = {}  # by descriptor; a loop watches each once

    async def open(self, name: str) -> Face:
        return await aio.open(name)

    async def wait(self, seconds: float | None = None) -> bool:
        """Sleep so long, or until it is to stop: whether it is."""
        return await self._ready(seconds) == self._caps._stop

    async def accept(self, timeout: float | None = None) -> Accepted | None:
        """As `Caps.accept`; the stream is non-blocking."""
        self._caps._asked = True
        number = self._caps._conveyor.fileno()
        while True:
            found = self._caps._receive()
            if found is not None:
                found.stream.setblocking(False)
                return found
            if await self._ready(timeout, number) != number:
                return None

    async def accepted(self) -> AsyncIterator[Accepted]:
        while (found := await self.accept()) is not None:
            yield found

    async def _ready(self, seconds: float | None, other: int = -1) -> int:
        caps = self._caps
        caps._asked = True
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[int] = loop.create_future()

        numbers = [number for number in (caps._stop, other) if number >= 0]
        for number in numbers:
            waiters = self._waiters.setdefault(number, [])
            waiters.append(ready)
            if len(waiters) == 1:
                loop.add_reader(number, self._on_ready, number)
        try:
            return await asyncio.wait_for(ready, seconds)
        except TimeoutError:
            return -1
        finally:
            for number in numbers:
                self._waiters[number].remove(ready)
                if not self._waiters[number]:
                    loop.remove_reader(number)

    def _on_ready(self, number: int) -> None:
        for waiter in self._waiters[number]:
            if not waiter.done():
                waiter.set_result(number)
