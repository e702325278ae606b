"""A line of the access log: who asked for what, and what it got. Pure.

    192.0.2.1 "GET example.org/a?b HTTP/1.1" 200 512 1.3ms "https://referer/" "curl/8.5"

The time is the log's own, which stamps every record. Clients write most of what is in it: whatever could end a quoted
word or a line is escaped, and long words are cut, so that a line is one write to a pipe (PIPE_BUF, pipe(7)).
"""

from __future__ import annotations

MOST = 1024  # bytes of one word


def line(
    client: bytes, request: bytes, status: int, size: int, seconds: float, referer: bytes = b"", agent: bytes = b""
) -> bytes:
    """`request`: b"GET example.org/ HTTP/1.1", b"" for one that could not be read; `size`: bytes of body sent."""
    return b'%b "%b" %d %d %.1fms "%b" "%b"' % (
        client or b"-", _plain(request), status, size, seconds * 1e3, _plain(referer), _plain(agent)
    )  # fmt: skip


def _plain(word: bytes) -> bytes:
    word = b"".join([bytes((c,)) if 32 <= c < 127 and c not in b'"\\' else b"\\x%02x" % c for c in word[:MOST]])
    return (word if len(word) <= MOST else word[: MOST - 3] + b"...") or b"-"
