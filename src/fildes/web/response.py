"""An instance's response, as it is relayed: read strictly, without I/O.

It comes from a tenant, and it goes to a connection on which others' responses follow: so exactly one response passes,
framed as the door has understood it, and not a byte behind it (RFC 9112 6).
"""

from __future__ import annotations

import re
from typing import Final

from fildes.wire.http_body import Chunked, Sized
from fildes.wire.http_fields import TOKEN, VALUE, Refused

HEAD_LIMIT: Final = 65536
_MOST_INTERIM: Final = 16  # responses before the final one

_status_line = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?").fullmatch
# Of this one connection; what Connection names is too (RFC 9110 7.6.1).
_HOP_BY_HOP: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"))
_NO_TRAILER: Final = frozenset((b"content-length", b"transfer-encoding", b"host", b"trailer", b"set-cookie"))


class Broken(Exception):
    """No response that may be passed on; the sentence says what is wrong with it."""


class _Chunks(Chunked):
    """With trailers: they are the program's to send, and the client's to read."""

    __slots__ = ("trailers",)

    def __init__(self) -> None:
        super().__init__()
        self.trailers: list[bytes] = []

    def _trailer(self, line: bytes) -> None:
        super()._trailer(line)
        if line and line.partition(b":")[0].lower() not in _NO_TRAILER:
            self.trailers.append(line)


class Response:
    """Fed what the instance writes; `feed` gives what the client is to be sent.

    `begun`: the final head went out. `done`: all of the response did. `switched`: from here on it is another protocol.
    `keep`: the client's connection may carry another request afterwards.
    """

    __slots__ = (
        "_body", "_head", "_interim", "_old", "begun", "done", "early", "head_only", "keep", "size", "status",
        "switched", "upgrade",
    )  # fmt: skip

    def __init__(self, *, head_only: bool, old: bool, keep: bool, upgrade: bool) -> None:
        self.head_only = head_only
        self._old = old  # the client speaks HTTP/1.0
        self.keep = keep and not old
        self.upgrade = upgrade
        self.early = False  # the request has not come whole: what is left of it will not be read
        self._head = b""
        self._interim = 0
        self._body: Sized | _Chunks | None = None  # None: until the end of the stream
        self.begun = self.done = self.switched = False
        self.status = 0
        self.size = 0  # bytes of body that came

    def feed(self, data: bytes) -> bytes:
        """Raises Broken."""
        if self.done:
            return b""
        if self.begun:
            return self._more(data)
        data = self._head + data
        self._head = b""
        out = b""
        while not self.begun:
            end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT)
            if end < 0:
                if len(data) >= HEAD_LIMIT:
                    raise Broken(f"its head is longer than {HEAD_LIMIT} bytes")
                self._head = data
                return out
            out += self._begin(data[:end])
            data = data[end + 4 :]
        return out + self._more(data)

    def end(self) -> bool:
        """The stream has ended; whether that completes the response."""
        if self.begun and self._body is None:
            self.done = True
        return self.done

    def _begin(self, head: bytes) -> bytes:
        line, _, block = head.partition(b"\r\n")
        found = _status_line(line)
        if found is None:
            raise Broken("it begins with no status line")
        status = int(found[1])
        fields = [_field(raw) for raw in block.split(b"\r\n")] if block else []
        if status == 101:
            if not self.upgrade:
                raise Broken("it switches protocols, and nobody asked for that")
            self.begun = self.switched = True
            self.status, self.keep = status, False
            return head + b"\r\n\r\n"
        dropped = _HOP_BY_HOP | {
            w.strip(b" \t").lower() for n, v, _ in fields if n == b"connection" for w in v.split(b",")
        }
        dropped -= {b"content-length", b"transfer-encoding"}
        kept = [raw for name, _, raw in fields if name not in dropped]
        if status < 200:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise Broken("it has no end of interim responses")
            return b"" if self._old else b"\r\n".join((b"HTTP/1.1" + line[8:], *kept, b"", b""))
        self.status = status
        self.begun = True
        self.keep = self.keep and not self.early
        self._frame(fields, bodyless=self.head_only or status in (204, 304))
        if not self.keep:
            kept.append(b"connection: close")
        return b"\r\n".join((b"HTTP/1.1" + line[8:], *kept, b"", b""))

    def _frame(self, fields: list[tuple[bytes, bytes, bytes]], *, bodyless: bool) -> None:
        lengths = [value for name, value, _ in fields if name == b"content-length"]
        codings = [value.lower() for name, value, _ in fields if name == b"transfer-encoding"]
        if len(lengths) + len(codings) > 1:
            raise Broken("it says twice how long it is")
        if lengths and not (lengths[0].isdigit() and len(lengths[0]) <= 18):
            raise Broken("its Content-Length is not a number")
        if codings and (codings != [b"chunked"] or self._old):
            raise Broken("it has a Transfer-Encoding that the client can't be expected to read")
        if bodyless:
            self.done = True
        elif codings:
            self._body = _Chunks()
        elif lengths:
            self._body = Sized(int(lengths[0]))
            self.done = self._body.done
        else:
            self.keep = False

    def _more(self, data: bytes) -> bytes:
        if self.switched or self._body is None:
            if self.done:
                return b""
            self.size += len(data)
            return data
        if self.done or not data:
            return b""
        try:
            piece = self._body.feed(data)
        except Refused as refused:
            raise Broken(f"its body is framed wrongly: {refused.bad.sentence}") from refused
        self.size += len(piece)
        self.done = self._body.done
        if not isinstance(self._body, _Chunks):
            return piece
        out = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        return out + b"\r\n".join((b"0", *self._body.trailers, b"", b"")) if self.done else out


def _field(raw: bytes) -> tuple[bytes, bytes, bytes]:
    name, colon, value = raw.partition(b":")
    if not name or not colon or name.translate(None, TOKEN) or value.translate(None, VALUE):
        raise Broken("one of its header lines can't be read")
    return name.lower(), value.strip(b" \t"), raw
