"""The body of an HTTP/1.1 request, read strictly, without I/O (RFC 9112 6 and 7.1).

A reader is fed what arrives and gives back what of it is body. `done` says that the body is complete; `rest` is then
what followed it (the next request of a pipeline). Both readers raise Refused, whose `bad` is what to answer.
"""

from __future__ import annotations

import re

from fildes.wire.http_fields import MATTERS, TOKEN, VALUE, Refused

LINE_LIMIT = 1024  # bytes of a chunk's size line with its extensions, which are ignored
EXTRA_LIMIT = 8192  # bytes of all extensions and trailers of one body: both are dropped, neither may cost much

# Extensions as RFC 9112 7.1.1 has them, but without its blanks, which llhttp refuses too, and without backslashes.
_token = b"[" + re.escape(TOKEN) + b"]+"
_quoted = rb'"[\t !#-\[\]-~\x80-\xff]*"'
_chunk_line = re.compile(
    b"([0-9A-Fa-f]{1,12})((?:;%(token)b(?:=(?:%(token)b|%(quoted)b))?)*)" % {b"token": _token, b"quoted": _quoted}
).fullmatch


class Sized:
    """A body of `size` bytes."""

    __slots__ = ("done", "left", "rest")

    def __init__(self, size: int) -> None:
        self.left = size
        self.done = not size
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        left = self.left
        if len(data) < left:
            self.left = left - len(data)
            return data
        self.left = 0
        self.done = True
        if len(data) == left:
            return data
        self.rest = data[left:]
        return data[:left]


class Chunked:
    """A body in chunks. Extensions and trailers are checked and dropped."""

    __slots__ = ("_extra", "_held", "_left", "_trailing", "done", "rest")

    def __init__(self) -> None:
        self._held = b""  # the beginning of a line
        self._left = 0  # bytes of the current chunk still to come, and the CR LF behind them
        self._extra = 0
        self._trailing = False
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        if self._held:
            data, self._held = self._held + data, b""
        out: list[bytes] = []
        at = 0
        while not self.done:
            if self._left:
                at = self._chunk(data, at, out)
                if self._left:
                    break
            end = data.find(b"\r\n", at, at + LINE_LIMIT)
            if end < 0:
                self._hold(data[at:])
                break
            if self._trailing:
                self._trailer(data[at:end])
            else:
                self._size(data[at:end])
            at = end + 2
        if self.done:
            self.rest = data[at:]
        return b"".join(out)

    def _chunk(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take what there is of the current chunk and its CR LF; where the next line begins."""
        if self._left > 2:
            piece = data[at : at + self._left - 2]
            out.append(piece)
            self._left -= len(piece)
            at += len(piece)
        if self._left <= 2:
            end = data[at : at + self._left]
            if end != b"\r\n"[2 - self._left :][: len(end)]:
                raise Refused(400, "A chunk is longer than its size says, or its CR LF is missing.")
            self._left -= len(end)
            at += len(end)
        return at

    def _hold(self, line: bytes) -> None:
        if len(line) >= LINE_LIMIT:
            raise Refused(400, f"A line of a chunked body is longer than {LINE_LIMIT} bytes.")
        if b"\n" in line or b"\r" in line[:-1]:
            raise Refused(400, "Lines end in CR LF; there is one of them without the other.")
        self._held = line

    def _size(self, line: bytes) -> None:
        found = _chunk_line(line)
        if found is None:
            raise Refused(400, "The size of a chunk is not a hexadecimal number, or what follows it is no extension.")
        self._spend(len(found[2]))
        size = int(found[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailing = True

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._spend(len(line))
        name, colon, value = line.partition(b":")
        if not name or not colon or name.translate(None, TOKEN) or value.translate(None, VALUE):
            raise Refused(400, "A trailer is not a header line.")
        if name.lower() in MATTERS:  # RFC 9110 6.5.1
            raise Refused(400, "There is a header among the trailers that frames or routes a message.")

    def _spend(self, size: int) -> None:
        self._extra += size
        if self._extra > EXTRA_LIMIT:
            raise Refused(400, f"The extensions and trailers of a body take more than {EXTRA_LIMIT} bytes.")
