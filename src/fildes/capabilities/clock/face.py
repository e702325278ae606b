"""The holder's side of a clock grant: a timer that ticks by itself, and a page that says when it began.

The page, little-endian, is kept right by the driver when the machine's clock is set; nobody else can write it:

     0  i64 seconds, i64 nanoseconds   wall time (since 1970, UTC) at tick 0
    16  i64 seconds, i64 nanoseconds   CLOCK_MONOTONIC at tick 0
    32  i64                            odd while the driver writes

The timer expires every millisecond, counted from tick 0; a read returns the ticks since the last read, so a process
has one reader of it. Where the runtime answers `time.time` from this grant, that one is asked.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Final

PAGE: Final = struct.Struct("<qqqqq")
TICK_NS: Final = 1_000_000


class Clock:
    """`read_ns`: the runtime's own reader of this clock, where there is one; else `timer` is read."""

    __slots__ = ("_page", "_read_ns", "_ticks", "_timer")

    def __init__(self, timer: int, page: int, read_ns: Callable[[], int] | None = None) -> None:
        self._timer, self._page, self._read_ns = timer, page, read_ns
        self._ticks = 0

    def time_ns(self) -> int:
        """Nanoseconds since 1970, UTC, to the millisecond at least."""
        if self._read_ns is not None:
            return self._read_ns()
        page = self._look()
        while page[4] & 1 or page != self._look():
            page = self._look()
        seconds, nanoseconds = page[:2]
        return seconds * 1_000_000_000 + nanoseconds + self.ticks() * TICK_NS

    def time(self) -> float:
        """Seconds since 1970, UTC."""
        return self.time_ns() / 1e9

    def ticks(self) -> int:
        """Milliseconds since tick 0: they only rise, whatever the clock is set to."""
        try:
            new = int.from_bytes(os.read(self._timer, 8), "little")
        except BlockingIOError:
            new = 0  # none since the last read
        self._ticks += new  # after the read, during which another thread may have added its own
        return self._ticks

    def _look(self) -> tuple[int, int, int, int, int]:
        return PAGE.unpack(os.pread(self._page, PAGE.size, 0))
