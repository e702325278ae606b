"""What is sent for a request, prepared so that sending it again costs one write."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fildes.static.conditions import http_date
from fildes.wire.http import PHRASES

if TYPE_CHECKING:
    from fildes.static.sites import Site

# Bodies up to here are kept with their heads in memory. Larger ones go by sendfile(2), which spares a copy: 23 µs for
# 100 KB where a write took 39, side by side on a busy machine.
SMALL: Final = 64 * 1024


class Plan:
    """One answer. `stamped(second)` is its head, complete with Date, and its body if that is in memory.

    `site` is set if `count` bytes of its pack, from `offset`, follow by sendfile(2). `close`: the connection ends.
    `passing`: true for the moment only, not to be remembered.
    """

    __slots__ = ("_body_size", "_bytes", "_head", "_second", "close", "count", "offset", "passing", "site")

    def __init__(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        close: bool = False,
        site: Site | None = None,
        offset: int = 0,
        count: int = 0,
    ) -> None:
        self._head = head
        self._body_size = len(body)
        self._bytes = body  # its end is always the body
        self._second = -1
        self.close = close
        self.passing = False
        self.site = site
        self.offset = offset
        self.count = count

    @property
    def size(self) -> int:
        """Bytes of memory that keeping this costs, at most."""
        return len(self._head) + self._body_size + 500

    def stamped(self, second: int) -> bytes:
        """Everything but what sendfile adds, as of `second` (seconds since 1970)."""
        if second != self._second:
            self._second = second
            body = self._bytes[len(self._bytes) - self._body_size :]
            self._bytes = b"%b%b\r\n\r\n%b" % (self._head, date_line(second), body)
        return self._bytes


_date: tuple[int, bytes] = (-1, b"")


def date_line(second: int) -> bytes:
    global _date
    if _date[0] != second:
        _date = second, f"date: {http_date(second)}".encode()
    return _date[1]


def head(status: int, fields: dict[str, str | int], *, keep: bool, old: bool) -> bytes:
    """A head without its Date line and end. `old`: the client speaks HTTP/1.0, where keeping alive must be said."""
    lines = [f"HTTP/1.1 {status} {PHRASES[status]}", *(f"{name}: {value}" for name, value in fields.items())]
    if not keep:
        lines.append("connection: close")
    elif old:
        lines.append("connection: keep-alive")
    lines.append("")
    return "\r\n".join(lines).encode("latin-1")


def now() -> int:
    return int(time.time())
