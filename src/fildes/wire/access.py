"""A line of the access log: who asked for what, and what it got. Pure.

    192.0.2.1 "GET example.org/a?b HTTP/1.1" 200 512 1.3ms "https://referer/" "curl/8.5"

The time is the log's own, which stamps every record. Clients write most of what is in it: whatever could end a quoted
word or a line is escaped, and long words are cut.
"""

from __future__ import annotations

MOST = 1024  # bytes of one word


def line(
    client: bytes, request: bytes, status: int, size: int, seconds: float, referer: bytes = b"", agent: bytes = b""
) -> bytes:
    """`request`: b"GET example.org/ HTTP/1.1", b"" for one that could not be read; `size`: bytes of body sent."""
    quoted = b" ".join([b'"%b"' % _plain(word) for word in (referer, agent)])
    return b'%b "%b" %d %d %.1fms %b' % (client or b"-", _plain(request), status, size, seconds * 1e3, quoted)


def _plain(word: bytes) -> bytes:
    if len(word) > MOST:
        word = word[: MOST - 3] + b"..."
    if word.isascii() and word.decode("ascii").isprintable() and b'"' not in word and b"\\" not in word:
        return word or b"-"
    return b"".join([bytes((c,)) if 32 <= c < 127 and c not in (0x22, 0x5C) else b"\\x%02x" % c for c in word])
