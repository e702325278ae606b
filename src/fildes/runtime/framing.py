"""How a response to one request is framed: its head's last lines, its body in one piece or in many (RFC 9112 6, 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fildes.runtime.connection import Connection
from fildes.runtime.keeping import STREAMING, TRAILING, WAITING
from fildes.runtime.response import Prepared
from fildes.wire.http import Fields, Line
from fildes.wire.http_body import Chunked, Sized

if TYPE_CHECKING:
    from fildes.runtime.loop import Serving

WORTH_READING = 262144  # bytes of an unread body that are read and dropped to keep a connection

_NOTHING = Prepared(b"", None, False, False)


class Framing:
    __slots__ = (
        "chunked",
        "connection",
        "expect",
        "head_only",
        "keep",
        "left",
        "old",
        "phase",
        "prepared",
        "reader",
        "serving",
        "trailers",
        "usual",
    )

    def __init__(self, serving: Serving, connection: Connection, line: Line, fields: Fields) -> None:
        self.serving = serving
        self.connection = connection
        self.phase = WAITING
        self.prepared = _NOTHING
        self.head_only = line.method == "HEAD"
        self.old = line.version == "1.0"
        if self.old:
            self.keep = fields.keep_alive and not fields.close
            self.expect = False
        else:
            self.keep = not fields.close
            self.expect = fields.expect_continue  # the client waits for 100 before it sends the body
        self.usual = not self.head_only and not self.old
        self.trailers = fields.trailers and not self.old  # the client would like them
        self.chunked = False  # how the response is framed
        self.left = -1  # bytes still to come of a response whose length is known
        self.reader: Sized | Chunked | None = None  # of the request's body, until all of it was read
        if fields.chunked:
            self.reader = Chunked()
        elif fields.content_length:
            self.reader = Sized(fields.content_length)

    def _whole(self, body: bytes) -> bytes:
        """Head and body of a response that is complete."""
        prepared = self.prepared
        size = len(body)
        if (
            prepared.length == size
            and self.usual
            and self.keep
            and self.reader is None
            and not prepared.close
            and not prepared.bodyless
            and not self.connection.eof
            and not self.serving.ending.draining
        ):
            dater = self.serving.dater
            if dater is None or prepared.dated:
                return prepared.complete + body
            return b"".join((prepared.text, dater.line(), b"\r\n", body))
        silent = self.head_only or prepared.bodyless
        framing = b""
        if prepared.length is None:
            if not prepared.bodyless:
                framing = b"content-length: %d\r\n" % size
        elif prepared.length != size and not silent:
            raise RuntimeError(f"the response has {size} bytes of body, but its content-length is {prepared.length}")
        head = prepared.text + framing + self._last_lines(prepared) + b"\r\n"
        return head if silent else b"".join((head, body))

    def _first(self, body: bytes) -> bytes:
        """Head and first piece of a response of which more will come."""
        prepared = self.prepared
        framing = b""
        if prepared.bodyless or self.head_only:
            self.left = -1
            if not prepared.bodyless and prepared.length is None and not self.old:
                framing = b"transfer-encoding: chunked\r\n"
        elif prepared.length is not None:
            self.left = prepared.length
        elif self.old:
            self.keep = False  # the end of the connection is the end of the body
        else:
            self.chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        head = prepared.text + framing + self._last_lines(prepared) + b"\r\n"
        self.phase = STREAMING
        return head + self._next(body, True)

    def _next(self, body: bytes, more: bool) -> bytes:
        """A piece of the body, framed."""
        if self.head_only or self.prepared.bodyless:
            return b""
        size = len(body)
        if self.chunked:
            last = b"" if more else b"0\r\n\r\n"
            return b"%x\r\n%b\r\n%b" % (size, body, last) if size else last
        if self.left >= 0:
            self.left -= size
            if self.left < 0:
                raise RuntimeError("the response has more bytes of body than its content-length says")
            if self.left and not more:
                raise RuntimeError("the response has fewer bytes of body than its content-length says")
        return bytes(body)

    def _before_trailers(self, data: bytes) -> bytes:
        """`data`, which ends the body but for its trailers."""
        if self.left > 0:
            raise RuntimeError("the response has fewer bytes of body than its content-length says")
        self.phase = TRAILING
        return data

    def _trailer(self, lines: bytes) -> bytes:
        """The end of a body with trailers, which only a chunked one can have (RFC 9112 7.1.2)."""
        if not self.chunked:
            return b""
        return b"0\r\n" + lines + b"\r\n" if self.trailers else b"0\r\n\r\n"

    def _last_lines(self, prepared: Prepared) -> bytes:
        connection = self.connection
        if prepared.close or self.serving.ending.draining or (connection.eof and not connection.buffer):
            self.keep = False
        reader = self.reader
        # A client that expects 100 may or may not send its body now; a long one isn't worth reading.
        if reader is not None and (self.expect or (isinstance(reader, Sized) and reader.left > WORTH_READING)):
            self.keep = False
        dater = self.serving.dater
        date = dater.line() if dater is not None and not prepared.dated else b""
        if not self.keep:
            return date + b"connection: close\r\n"
        return date + b"connection: keep-alive\r\n" if self.old else date
