"""The head of a response, from what an ASGI program gives. Pure.

A program answers with the same few heads again and again, so a whole head is encoded once and remembered in a bounded
table; so is every header line. Heads with a Set-Cookie are not remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fildes.wire.http import PHRASES, TOKEN, VALUE

_REMEMBERED_HEADS = 256
_REMEMBERED_PAIRS = 512
_REMEMBERED_BYTES = 1024

# What frames the message and what concerns the connection is the server's to say (RFC 9110 7.6.1).
_OURS = frozenset((b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"upgrade"))


class Prepared:
    """A response's head, ready but for the lines that depend on the request and on the body."""

    __slots__ = ("bodyless", "close", "complete", "dated", "length", "text")

    def __init__(self, text: bytes, length: int | None, close: bool, bodyless: bool) -> None:
        self.text = text  # status line and header lines, without the empty line
        self.complete = text + b"\r\n"
        self.length = length  # Content-Length as the program gave it
        self.close = close  # the program asked for "connection: close"
        self.bodyless = bodyless  # 204 and 304
        self.dated = b"\r\ndate:" in text.lower()


def prepare(status: int, headers: Iterable[Iterable[bytes]]) -> Prepared:
    """Raises ValueError or TypeError, with a sentence, for what can't be sent: the program's mistake."""
    pairs = tuple(headers)
    key = (status, pairs)
    try:
        prepared = _heads.get(key)
    except TypeError:  # pairs as lists can't be looked up
        pairs = tuple([tuple(pair) for pair in pairs])
        key = (status, pairs)
        prepared = _heads.get(key)
    if prepared is None:
        prepared = _prepare(status, pairs)
        if len(prepared.text) <= _REMEMBERED_BYTES and b"\r\nset-cookie:" not in prepared.text.lower():
            if len(_heads) >= _REMEMBERED_HEADS:
                _heads.clear()
            _heads[key] = prepared
    return prepared


def _prepare(status: Any, pairs: tuple[Any, ...]) -> Prepared:
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"http.response.start: status {status!r} is not a number from 200 to 599")
    length: int | None = None
    close = False
    phrase = PHRASES.get(status, "")
    lines = [f"HTTP/1.1 {int(status)} {phrase}\r\n".encode()]
    if len(_pairs) >= _REMEMBERED_PAIRS:
        _pairs.clear()
    for pair in pairs:
        line = _pairs[pair]
        if line is not None:
            lines.append(line)
            continue
        name, value = pair[0].lower(), pair[1].strip()
        if name == b"connection":
            close = close or b"close" in value.lower()
        elif name == b"content-length":
            if not value.isdigit() or length is not None:
                raise ValueError("http.response.start: content-length is not one number")
            length = int(value)
            if status != 204:  # RFC 9110 8.6: never in a 204
                lines.append(b"content-length: %d\r\n" % length)
    return Prepared(b"".join(lines), length, close, status in (204, 304))


class _Pairs(dict[Any, bytes | None]):
    """Header lines already encoded, by (name, value); None for what is the server's to say, or is read by it."""

    __slots__ = ()

    def __missing__(self, pair: Any) -> bytes | None:
        name, value = pair
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise TypeError(f"http.response.start: the header {name!r}: {value!r} is not a pair of bytes")
        if not name or name.translate(None, TOKEN):
            raise ValueError(f"http.response.start: {name!r} is not the name of a header")
        if value.translate(None, VALUE):
            raise ValueError(f"http.response.start: there is a control character in the header {name!r}")
        small = name.lower()
        line = None if small in _OURS or small == b"content-length" else name + b": " + value + b"\r\n"
        if small != b"set-cookie" and len(name) + len(value) <= _REMEMBERED_BYTES:
            self[pair] = line
        return line


_heads: dict[Any, Prepared] = {}
_pairs = _Pairs()
