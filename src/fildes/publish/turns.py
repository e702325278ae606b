"""Who publishes next: one at a time per service, a few at once in all; the rest wait in the order they came."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from fildes.kernel.loop import Loop, Promise


class Turns:
    """`async with turns.of(key)`: at most one holder per key. `async with turns.any()`: at most `most` holders."""

    def __init__(self, loop: Loop, most: int) -> None:
        self._loop = loop
        self._free = most
        self._queue: deque[Promise[None]] = deque()
        self._held: dict[Hashable, deque[Promise[None]]] = {}

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def any(self) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            promise: Promise[None] = Promise(self._loop)
            self._queue.append(promise)
            try:
                await promise
            except BaseException:
                self._give_back(promise)
                raise
        try:
            yield
        finally:
            self._release()

    def _give_back(self, promise: Promise[None]) -> None:
        if promise.done:  # the turn came in the same moment as the cancellation
            self._release()
        else:
            self._queue.remove(promise)

    def _release(self) -> None:
        if self._queue:
            self._queue.popleft().resolve(None)
        else:
            self._free += 1

    @asynccontextmanager
    async def of(self, key: Hashable) -> AsyncIterator[None]:
        waiting = self._held.get(key)
        if waiting is None:
            self._held[key] = deque()
        else:
            promise: Promise[None] = Promise(self._loop)
            waiting.append(promise)
            try:
                await promise
            except BaseException:
                if promise.done:
                    self._pass_on(key)
                else:
                    waiting.remove(promise)
                raise
        try:
            yield
        finally:
            self._pass_on(key)

    def _pass_on(self, key: Hashable) -> None:
        waiting = self._held[key]
        if waiting:
            waiting.popleft().resolve(None)
        else:
            del self._held[key]
