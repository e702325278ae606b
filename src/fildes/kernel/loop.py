"""The small event loop of every daemon: level-triggered epoll, timers, and coroutines for flows of several steps.

asyncio is not used: it costs 30 ms and 10 MB a process, and a daemon needs four things of it.
A coroutine awaits a `Promise`; whoever has the answer resolves it; the coroutine goes on in the same turn of
the loop that resolved it, after the callbacks already queued.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, TypeVar

from fildes.kernel.fds import Fd, close_all

EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR, EPOLLRDHUP = (
    select.EPOLLIN,
    select.EPOLLOUT,
    select.EPOLLHUP,
    select.EPOLLERR,
    select.EPOLLRDHUP,
)

T = TypeVar("T")
Callback = Callable[[], object]


class Cancelled(Exception):
    """Raised inside a task that was cancelled."""


class Timer:
    """A callback to come; `cancel` may be called at any time, also after it ran."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Promise(Generic[T]):
    """A value to come. Resolved or failed once; later attempts are ignored."""

    __slots__ = ("_done", "_error", "_loop", "_value", "_waiters")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[Callable[[], object]] = []

    @property
    def done(self) -> bool:
        return self._done

    def resolve(self, value: T) -> None:
        if not self._done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        if not self._done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self._done = True
        for waiter in self._waiters:
            self._loop.call_soon(waiter)
        self._waiters.clear()

    def when_done(self, callback: Callback) -> None:
        if self._done:
            self._loop.call_soon(callback)
        else:
            self._waiters.append(callback)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def __await__(self) -> Generator[Promise[Any], None, T]:
        if not self._done:
            yield self
        return self.result()


class Task(Promise[T]):
    """A coroutine being run by the loop; itself a Promise of what it returns."""

    __slots__ = ("_awaited", "_coroutine")

    def __init__(self, loop: Loop, coroutine: Coroutine[Promise[Any], None, T]) -> None:
        super().__init__(loop)
        self._coroutine = coroutine
        self._awaited = False
        loop.call_soon(self._step)

    def cancel(self) -> None:
        """Raise Cancelled inside the coroutine at its next step, unless it is done."""
        if not self._done:
            self._loop.call_soon(lambda: self._step(Cancelled("cancelled")))

    def __await__(self) -> Generator[Promise[Any], None, T]:
        self._awaited = True
        return super().__await__()

    def when_done(self, callback: Callback) -> None:
        self._awaited = True
        super().when_done(callback)

    def _step(self, error: BaseException | None = None) -> None:
        if self._done:
            return
        try:
            promise = self._coroutine.throw(error) if error else self._coroutine.send(None)
        except StopIteration as stop:
            self.resolve(stop.value)
        except BaseException as raised:
            if not self._awaited and not isinstance(raised, Cancelled):
                self._loop.on_error(raised)
            self.fail(raised)
        else:
            promise.when_done(self._step)


def report(error: BaseException) -> None:
    """The default `on_error`: the traceback to standard error, and on we go."""
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()


class Loop:
    """Watches descriptors (borrowed: unwatch before closing), timers and tasks. Single-threaded."""

    def __init__(self, on_error: Callable[[BaseException], object] = report) -> None:
        self.on_error = on_error
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], object]] = {}
        self._soon: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._running = False
        self._signals: tuple[Fd, Fd] | None = None

    time = staticmethod(time.monotonic)

    def watch(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(events)` whenever `fd` has one of `events` (EPOLLIN | …), level-triggered."""
        self._epoll.register(fd, events)
        self._watched[fd] = callback

    def rewatch(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop watching; unknown descriptors are ignored. Must come before the descriptor is closed or passed on."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_soon(self, callback: Callback) -> None:
        self._soon.append(callback)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        timer = Timer(self.time() + seconds, callback)
        heapq.heappush(self._timers, (timer.when, next(self._count), timer))
        return timer

    def spawn(self, coroutine: Coroutine[Promise[Any], None, T]) -> Task[T]:
        return Task(self, coroutine)

    def promise(self) -> Promise[Any]:
        return Promise(self)

    async def sleep(self, seconds: float) -> None:
        promise: Promise[None] = Promise(self)
        self.call_later(seconds, lambda: promise.resolve(None))
        await promise

    def signals(self, numbers: Iterable[int], callback: Callable[[int], object]) -> None:
        """Call `callback(signum)` for these signals from inside the loop, instead of interrupting it.

        The handlers installed do nothing; Python's wake-up descriptor carries the numbers (signal(7)).
        """
        if self._signals is not None:
            raise RuntimeError("signals() can be called once a loop")
        reader, writer = (Fd(n) for n in os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        self._signals = reader, writer
        for number in numbers:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def arrived(_: int) -> None:
            for (number,) in struct.iter_unpack("B", os.read(reader.fileno(), 256)):
                callback(number)

        self.watch(reader.fileno(), EPOLLIN, arrived)

    def run(self) -> None:
        """Run until `stop`."""
        self._running = True
        while self._running:
            self.turn()

    def stop(self) -> None:
        self._running = False

    def turn(self, block: bool = True) -> None:
        """One round: wait if there is nothing to do, then descriptors, timers, and what they queued."""
        ready = self._epoll.poll(self._timeout() if block else 0)
        # An earlier callback of this round may unwatch a descriptor, or close it and open another of its number.
        for callback, fd, events in [(self._watched.get(fd), fd, events) for fd, events in ready]:
            if callback is not None and self._watched.get(fd) is callback:
                self._guard(callback, events)
        now = self.time()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guard(timer.callback)
        for _ in range(len(self._soon)):
            self._guard(self._soon.popleft())

    def run_until(self, promise: Promise[T]) -> T:
        """Run until `promise` is done, and return or raise what it holds."""
        while not promise.done:
            self.turn()
        return promise.result()

    def close(self) -> None:
        for fd in list(self._watched):
            self.unwatch(fd)
        if self._signals is not None:
            signal.set_wakeup_fd(-1)
            close_all(self._signals)
        self._epoll.close()

    def _timeout(self) -> float:
        if self._soon:
            return 0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self.time()) if self._timers else -1

    def _guard(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            self.on_error(error)
