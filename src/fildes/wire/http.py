"""The head of an HTTP/1.1 request, read strictly, without I/O (RFC 9110, RFC 9112).

The door, the static server and the serving loop inside an instance all read heads with this one parser: a head
that the door passed on must mean the same to whoever answers it, or a request can be smuggled past the door.

    parse(data) -> INCOMPLETE                 more bytes are needed
                 | Head                       `length` bytes of data are the head; what follows is body or next request
                 | Bad(status, sentence)      answer with `refusal(bad)` and close

Rules, all of them narrower than or equal to the RFC:
  line ends are CRLF only; one empty line before the request is skipped; no folded lines; no control characters
  method is a token; target is origin-form (or absolute-form that agrees with Host); HTTP/1.0 and HTTP/1.1 only
  exactly one Host, also in HTTP/1.0, because without it there is no route
  at most one Content-Length and one Transfer-Encoding, never both; the only transfer coding is `chunked`
  at most HEAD_LIMIT bytes, TARGET_LIMIT bytes of target, FIELD_LIMIT header lines

Speed: a header line is parsed once and remembered in a bounded table; so is a whole block of header lines, because
a keep-alive client repeats itself. Lines that carry secrets (SECRET) are never remembered. The tables are emptied
between requests only: a line of MATTERS forgotten in the middle of a parse would be a hole for smuggling.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from fildes.wire.http_fields import (
    FIELD_LIMIT,
    TOKEN,
    VALUE,
    Bad,
    Fields,
    Refused,
    read_fields,
    remembered_blocks,
    split_host,
)

__all__ = [
    "FIELD_LIMIT", "HEAD_LIMIT", "INCOMPLETE", "PHRASES", "TARGET_LIMIT", "TOKEN", "VALUE", "Bad", "Fields", "Head",
    "Incomplete", "Line", "Refused", "parse", "refusal", "split_host", "under",
]  # fmt: skip

HEAD_LIMIT = 65536
TARGET_LIMIT = 16384

_REMEMBERED_LINES = 512
_REMEMBERED_BYTES = 512  # longest request line kept

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@%/"
# Browsers send these unescaped although RFC 3986 does not name them; none of them means anything to a parser.
_PATH = _UNRESERVED + b"[]{}|^"
_QUERY = _PATH + b"?\\`"

_lines: dict[bytes, Line] = {}

_version = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
_broken_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00").search
_absolute = re.compile(rb"(?i:https?)://([^/?#]*)(/[^?]*)?(\?.*)?").fullmatch

PHRASES = {
    100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted",
    203: "Non-Authoritative Information", 204: "No Content", 205: "Reset Content", 206: "Partial Content",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized",
    402: "Payment Required", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required",
    412: "Precondition Failed", 413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type",
    416: "Range Not Satisfiable", 417: "Expectation Failed", 418: "I'm a teapot", 421: "Misdirected Request",
    422: "Unprocessable Content", 425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}  # fmt: skip


class Incomplete:
    """The head has not arrived whole yet, and nothing in it is wrong so far. There is one: INCOMPLETE."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "INCOMPLETE"


INCOMPLETE = Incomplete()


class Line:
    """A request line. Shared between requests that have the same one: never change it."""

    __slots__ = ("authority", "method", "path", "plain", "query", "raw_path", "target", "version")

    def __init__(self, parts: tuple[str, bytes, str], authority: bytes | None, raw_path: bytes, query: bytes) -> None:
        self.method, self.target, version = parts
        self.authority = authority  # of an absolute-form target
        self.raw_path = raw_path
        # RFC 3986 2.5 leaves the encoding open; UTF-8, and what isn't becomes U+FFFD as in other servers.
        self.path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
        self.query = query
        self.version = version
        self.plain = authority is None and version == "1.1"


class Head:
    """A request's head: a Line and Fields, which it shares with other requests, and how many bytes it took."""

    __slots__ = ("fields", "length", "line")

    def __init__(self, line: Line, fields: Fields, length: int) -> None:
        self.line = line
        self.fields = fields
        self.length = length

    @property
    def method(self) -> str:
        """As sent: methods are case-sensitive."""
        return self.line.method

    @property
    def target(self) -> bytes:
        """As sent."""
        return self.line.target

    @property
    def path(self) -> str:
        """Percent-decoded."""
        return self.line.path

    @property
    def raw_path(self) -> bytes:
        """Not decoded, without the query."""
        return self.line.raw_path

    @property
    def query(self) -> bytes:
        """What follows the first question mark, not decoded."""
        return self.line.query

    @property
    def version(self) -> str:
        """ "1.0" or "1.1"."""
        return self.line.version

    @property
    def host(self) -> str:
        """Lower case, without port and without a final dot."""
        return self.fields.host

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """(name in lower case, value); shared with other requests: copy it before changing it."""
        return self.fields.headers

    @property
    def content_length(self) -> int | None:
        """Bytes of body, None when it was not said."""
        return self.fields.content_length

    @property
    def chunked(self) -> bool:
        return self.fields.chunked

    @property
    def upgrade(self) -> bytes:
        """b"websocket" and the like in lower case; empty when no upgrade was asked for."""
        return self.fields.upgrade

    @property
    def expect_continue(self) -> bool:
        return self.fields.expect_continue and self.line.version == "1.1"

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may carry another request after this one (RFC 9112 9.3)."""
        fields = self.fields
        return not fields.close and (self.line.version == "1.1" or fields.keep_alive)

    @property
    def has_body(self) -> bool:
        return self.fields.chunked or bool(self.fields.content_length)

    def __repr__(self) -> str:
        return f"<Head {self.line.method} {self.line.target!r} host={self.fields.host} {self.length} bytes>"


def parse(data: bytes) -> Head | Bad | Incomplete:
    """Read the head at the beginning of `data` (bytes, not a view). Never raises. See the module's text."""
    end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT)
    try:
        if end <= 0:
            return _incomplete(data) if end else _skip_empty_line(data)
        cut = data.find(b"\r\n")
        key = data[:cut]
        line = _lines.get(key)
        if line is None:
            if not cut:
                return _skip_empty_line(data)
            line = _request_line(key)
        key = data[cut + 2 : end]
        fields = remembered_blocks.get(key)
        if fields is None:
            fields = read_fields(key)
        if not line.plain:
            _check_unusual(line, fields)
        return Head(line, fields, end + 4)
    except Refused as refused:
        return refused.bad


def under(path: str, prefix: str) -> bool:
    """Whether a decoded path belongs to a route's prefix: "" has all, "/a" has "/a" and "/a/b", never "/ab"."""
    return not prefix or path == prefix or (path.startswith(prefix) and path[len(prefix)] == "/")


def refusal(bad: Bad, extra: str = "") -> bytes:
    """A complete response to a refused request, after which the connection must be closed.

    `extra` is header lines, each ending in CRLF (`"Retry-After: 1\\r\\n"`).
    """
    body = f"{bad.status} {PHRASES.get(bad.status, '')}\n{bad.sentence}\n".encode()
    return (
        f"HTTP/1.1 {bad.status} {PHRASES.get(bad.status, '')}\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\n{extra}connection: close\r\n\r\n"
    ).encode() + body


# What comes in pieces


def _incomplete(data: bytes) -> Bad | Incomplete:
    """No end of the head yet: is there anything in it that no further byte can mend?"""
    size = len(data)
    start = 2 if data.startswith(b"\r\n") else 0
    cut = data.find(b"\r\n", start)
    if cut < 0:
        if size - start > TARGET_LIMIT + 64:
            raise Refused(414, f"The request line is longer than {TARGET_LIMIT} bytes.")
        word = data[start:].partition(b" ")[0]
        if word != b"\r" and word.rstrip(b"\r").translate(None, TOKEN):
            raise Refused(400, "A request begins with a method; this is not HTTP.")
    else:
        _request_line(data[start:cut])
    if size >= HEAD_LIMIT:
        raise Refused(431, f"The head of the request is larger than {HEAD_LIMIT} bytes.")
    ends = data.count(b"\r\n")
    if data.count(b"\n") != ends or data.count(b"\r") - data.endswith(b"\r") != ends:
        raise Refused(400, "Lines end in CR LF; there is one of them without the other.")
    if b"\0" in data:
        raise Refused(400, "There is a NUL in the head of the request.")
    return INCOMPLETE


def _skip_empty_line(data: bytes) -> Head | Bad | Incomplete:
    """RFC 9112 2.2: an empty line before the request is skipped; old clients send one after a form's body."""
    if data.startswith(b"\r\n\r\n"):
        raise Refused(400, "A request begins with a request line; there are two empty lines.")
    rest = parse(data[2:])
    if isinstance(rest, Head):
        rest.length += 2
    return rest


# The request line


def _request_line(raw: bytes) -> Line:
    parts = raw.split(b" ")
    if len(parts) != 3:
        raise Refused(400, "The request line is not: method, one space, target, one space, version.")
    method, target, version = parts
    if not method or method.translate(None, TOKEN):
        raise Refused(400, "The method is not a token.")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if _version(version):
            raise Refused(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        raise Refused(400, "The version of HTTP can't be read.")
    if len(target) > TARGET_LIMIT:
        raise Refused(414, f"The target is longer than {TARGET_LIMIT} bytes.")
    if len(method) > 32 or method == b"CONNECT" or target == b"*":
        raise Refused(501, "CONNECT, OPTIONS * and methods of more than 32 characters are not served.")
    authority: bytes | None = None
    path, mark, query = target.partition(b"?")
    if not target.startswith(b"/"):
        absolute = _absolute(target)
        if absolute is None:
            raise Refused(400, "The target is neither a path nor an absolute http URL.")
        authority = absolute[1]
        path, query = absolute[2] or b"/", (absolute[3] or b"?")[1:]
    if path.translate(None, _PATH) or query.translate(None, _QUERY):
        raise Refused(400, "There is a character in the target that must be percent-encoded.")
    if _broken_escape(path):
        raise Refused(400, "A percent sign in the path is not followed by two hexadecimal digits, or by 00.")
    line = Line((method.decode(), target, version[5:].decode()), authority, path, query)
    # Targets with a query are rarely repeated and often carry tokens.
    if not mark and authority is None and len(raw) <= _REMEMBERED_BYTES:
        if len(_lines) >= _REMEMBERED_LINES:
            _lines.clear()
        _lines[raw] = line
    return line


def _check_unusual(line: Line, fields: Fields) -> None:
    if line.authority is not None and line.authority.lower() != fields.authority.lower():
        raise Refused(400, "The target names another host than the Host header does.")
    if line.version == "1.0" and fields.chunked:
        raise Refused(400, "HTTP/1.0 has no Transfer-Encoding.")
