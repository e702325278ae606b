"""Many deadlines of one length, for the price of one timer: first in, first due."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from fildes.kernel.loop import Loop, Timer


class Deadlines:
    """Calls `expired(key)` `seconds` after `add(key)`, unless it was removed. A key is any int, such as an fd."""

    __slots__ = ("_due", "_expired", "_loop", "_seconds", "_timer")

    def __init__(self, loop: Loop, seconds: float, expired: Callable[[int], object]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._expired = expired
        self._due: dict[int, float] = {}  # in the order of addition, hence of falling due
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: int) -> None:
        """Start `key`'s time, again if it was running."""
        self._due.pop(key, None)
        self._due[key] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._run)

    def remove(self, key: int) -> None:
        # The timer stays: it finds nothing, or arms itself for who is first then.
        self._due.pop(key, None)

    def oldest(self) -> int | None:
        return next(iter(self._due), None)

    def _run(self) -> None:
        self._timer = None
        now = self._loop.time()
        while True:
            due = [key for key, when in islice(self._due.items(), 64) if when <= now]
            for key in due:
                if self._due.pop(key, None) is not None:
                    self._expired(key)
            if len(due) < 64:
                break
        first = next(iter(self._due.values()), None)
        if first is not None and self._timer is None:
            self._timer = self._loop.call_later(max(0.0, first - now), self._run)
