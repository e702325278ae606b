"""The Date header line, for instances that were granted a clock (RFC 9110 6.6.1: without one, none is sent)."""

from __future__ import annotations

import time
from collections.abc import Callable

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date_line(seconds: float) -> bytes:
    """The line for a moment in seconds since 1970 (RFC 9110 5.6.7), whatever the locale."""
    t = time.gmtime(seconds)
    return (
        f"date: {_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT\r\n"
    ).encode()


class Dater:
    """Asks the wall clock twice a second at most."""

    __slots__ = ("_asked", "_line", "_monotonic", "_wall")

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._asked = -1.0
        self._line = b""

    def line(self) -> bytes:
        """The line; nothing when there is no clock to ask."""
        now = self._monotonic()
        if now - self._asked >= 0.5 or self._asked < 0:
            self._asked = now
            try:
                self._line = date_line(self._wall())
            except OSError:
                self._line = b""
        return self._line
