"""Preconditions and ranges of a request for one representation (RFC 9110 §13 and §14). Pure."""

from __future__ import annotations

import calendar
import re
import time
from typing import Final, Literal

Headers = list[tuple[bytes, bytes]]

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (\d{4}) "
    rb"(\d\d):(\d\d):(\d\d) GMT"
).fullmatch
_RANGE: Final = re.compile(rb"(?i:bytes)=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*").fullmatch
_TAG: Final = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def http_date(seconds: float) -> str:
    """IMF-fixdate, RFC 9110 §5.6.7."""
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    )


def parse_date(value: bytes) -> int | None:
    """Seconds since 1970; None for what is no IMF-fixdate: such a condition is ignored, as the RFC says."""
    found = _DATE(value)
    if found is None:
        return None
    day, month, year, hour, minute, second = found.groups()
    number = _MONTHS.index(month.decode()) + 1
    try:
        return calendar.timegm((int(year), number, int(day), int(hour), int(minute), int(second)))
    except (ValueError, OverflowError):
        return None


def _all(headers: Headers, name: bytes) -> bytes | None:
    values = [value for key, value in headers if key == name]
    return b", ".join(values) if values else None


def _lists(value: bytes, etag: bytes, *, weak: bool) -> bool:
    """Whether a list of entity tags names `etag`, which is strong."""
    if value == b"*":
        return True
    return any(m[1] == etag and (weak or not m[0].startswith(b"W/")) for m in _TAG.finditer(value))


def precondition(headers: Headers, etag: bytes, mtime: int) -> Literal[200, 304, 412]:
    """In the order of §13.2.2. `etag` in its quotes; `mtime` 0: not known."""
    if (match := _all(headers, b"if-match")) is not None:
        if not _lists(match, etag, weak=False):
            return 412
    elif mtime and (since := _all(headers, b"if-unmodified-since")) is not None:
        date = parse_date(since)
        if date is not None and mtime > date:
            return 412
    if (none := _all(headers, b"if-none-match")) is not None:
        return 304 if _lists(none, etag, weak=True) else 200
    if mtime and (since := _all(headers, b"if-modified-since")) is not None:
        date = parse_date(since)
        if date is not None and mtime <= date:
            return 304
    return 200


def byte_range(headers: Headers, size: int, etag: bytes, mtime: int) -> tuple[int, int] | Literal["whole", "none"]:
    """(first, count) of the one range asked for, "none" if it lies beyond the end (416), "whole" without a range,
    with several, or when If-Range says that the client's part is of something else."""
    value = _all(headers, b"range")
    if value is None:
        return "whole"
    condition = _all(headers, b"if-range")
    if condition is not None and condition != etag and (not mtime or parse_date(condition) != mtime):
        return "whole"
    found = _RANGE(value)
    if found is None or not (found[1] or found[2]):
        return "whole"
    if not found[1]:
        count = min(int(found[2]), size)
        return (size - count, count) if count else "none"
    first = int(found[1])
    if found[2] and int(found[2]) < first:
        return "whole"  # it is no range at all: ignored
    if first >= size:
        return "none"
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    return first, last - first + 1
