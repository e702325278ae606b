"""The header lines of an HTTP/1.1 request (RFC 9110 5, RFC 9112 5 and 6); the rules are in `wire.http`."""

from __future__ import annotations

import re

FIELD_LIMIT = 128  # lines
MATTER_LIMIT = 1024  # bytes of one line of MATTERS

_REMEMBERED_LINES = 512
_REMEMBERED_LINE_BYTES = 512
_REMEMBERED_BLOCKS = 128
_REMEMBERED_BLOCK_BYTES = 1024

TOKEN = bytes(c for c in range(33, 127) if c not in b'"(),/:;<=>?@[\\]{}')
# Field values: visible characters, blanks and obs-text (RFC 9110 5.5).
VALUE = bytes([9, *range(32, 127), *range(128, 256)])
SECRET = frozenset((b"cookie", b"authorization", b"proxy-authorization"))
MATTERS = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"te"))
# What only a proxy may say of a client: whoever speaks to us directly could claim anything. They are kept apart from
# the other headers, and shown to a program only where the door has written them itself (docs/door.md).
CLAIMS = frozenset(
    (
        b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip",
        b"fly-client-ip", b"fastly-client-ip", b"x-original-host", b"x-original-url", b"x-rewrite-url",
        b"x-url-scheme", b"x-scheme", b"front-end-https",
    )
)  # fmt: skip

_host = re.compile(rb"([A-Za-z0-9_](?:[A-Za-z0-9_.-]*)|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?").fullmatch


class Bad:
    """A head that is refused: the status to answer with, and a sentence for whoever sent it."""

    __slots__ = ("sentence", "status")

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        self.sentence = sentence

    def __repr__(self) -> str:
        return f"Bad({self.status}, {self.sentence!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bad) and (self.status, self.sentence) == (other.status, other.sentence)

    __hash__ = None  # type: ignore[assignment]


class Refused(Exception):
    """Carries a Bad out of the depth of a parse; it leaves neither `http` nor `body`."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.bad = Bad(status, sentence)


class Fields:
    """The header lines of a request. Shared between requests that have the same: copy `headers` before changing."""

    __slots__ = (
        "authority",
        "chunked",
        "close",
        "content_length",
        "expect_continue",
        "forwarded",
        "headers",
        "host",
        "keep_alive",
        "trailers",
        "upgrade",
    )

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers  # names in lower case, in the order in which they came; none of CLAIMS
        self.forwarded: list[tuple[bytes, bytes]] = []  # CLAIMS and X-Forwarded-*
        self.authority = b""  # Host as it was sent
        self.host = ""  # lower case, without port and final dot
        self.content_length: int | None = None
        self.chunked = False
        self.close = False
        self.keep_alive = False
        self.upgrade = b""  # lower case; empty unless Connection names it
        self.expect_continue = False
        self.trailers = False  # the client wants those of the response (TE: trailers)


class _Known(dict[bytes, tuple[bytes, bytes]]):
    """Header lines already parsed; what matters to the parser itself is noted in `_matters` too."""

    __slots__ = ()

    def __missing__(self, raw: bytes) -> tuple[bytes, bytes]:
        name, colon, value = raw.partition(b":")
        if name.translate(None, TOKEN) or not name or not colon:
            raise Refused(400, _what_is_wrong(raw, name, colon))
        if value.translate(None, VALUE):
            raise Refused(400, "There is a control character in a header, or a line without CR LF.")
        field = (name.lower(), value.strip(b" \t"))
        if field[0] in MATTERS or is_claim(field[0]):
            if len(raw) > MATTER_LIMIT:
                raise Refused(431, f"The header {field[0].decode()} is longer than {MATTER_LIMIT} bytes.")
            _matters[raw] = field
        elif field[0] in SECRET or len(raw) > _REMEMBERED_LINE_BYTES:
            return field
        self[raw] = field
        return field


def is_claim(name: bytes) -> bool:
    """Whether a header (lower case) says who a client is. With "_" it would mean the same to a WSGI program."""
    if b"_" in name:
        name = name.replace(b"_", b"-")
    return name in CLAIMS or name.startswith(b"x-forwarded-")


def believed(fields: Fields) -> Fields:
    """`fields` with what is claimed among the headers: for a connection that the conveyor marked FORWARDED."""
    copy = Fields(fields.headers + fields.forwarded)
    for name in Fields.__slots__:
        if name != "headers":
            setattr(copy, name, getattr(fields, name))
    return copy


remembered_blocks: dict[bytes, Fields] = {}
_known = _Known()
_matters: dict[bytes, tuple[bytes, bytes]] = {}


def _what_is_wrong(raw: bytes, name: bytes, colon: bytes) -> str:
    if raw[:1] in (b" ", b"\t"):
        return "A header line begins with a blank: folded lines are not accepted."
    if not colon:
        return "A header line has no colon."
    if name[-1:] in (b" ", b"\t"):
        return "There is a blank between a header's name and its colon."
    return "The name of a header is not a token."


def read_fields(block: bytes) -> Fields:
    if len(_known) > _REMEMBERED_LINES:
        _known.clear()
        _matters.clear()
    if not block:
        raise Refused(400, "A request needs exactly one Host header.")
    raws = block.split(b"\r\n")
    if len(raws) > FIELD_LIMIT:
        raise Refused(431, f"There are more than {FIELD_LIMIT} headers.")
    fields = Fields(list(map(_known.__getitem__, raws)))
    # Not a set: two equal lines are two lines.
    for raw in filter(_matters.__contains__, raws):
        name, value = _matters[raw]
        if name in _matter:
            _matter[name](fields, value)
        else:
            fields.forwarded.append((name, value))
    if fields.forwarded:
        fields.headers = [field for field in fields.headers if not is_claim(field[0])]
    if not fields.host:
        raise Refused(400, "A request needs exactly one Host header.")
    if fields.chunked and fields.content_length is not None:
        raise Refused(400, "Content-Length and Transfer-Encoding exclude each other.")
    if fields.upgrade and b"upgrade" not in _listed(fields.headers, b"connection"):
        fields.upgrade = b""
    if len(block) <= _REMEMBERED_BLOCK_BYTES and SECRET.isdisjoint([name for name, _ in fields.headers]):
        if len(remembered_blocks) >= _REMEMBERED_BLOCKS:
            remembered_blocks.clear()
        remembered_blocks[block] = fields
    return fields


def _listed(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The members of a comma-separated header, in lower case."""
    return [w.strip(b" \t").lower() for n, value in headers if n == name for w in value.split(b",")]


def split_host(value: bytes) -> str | None:
    """The name in a Host header: lower case, without port and final dot; None when it is not one."""
    found = _host(value)
    if found is None or len(value) > 262 or int(found[2] or 0) > 65535:
        return None
    return found[1].decode().lower().removesuffix(".")


def _matter_host(fields: Fields, value: bytes) -> None:
    if fields.host:
        raise Refused(400, "A request needs exactly one Host header; there are more.")
    fields.authority = value
    host = split_host(value)
    if not host:
        raise Refused(400, "The Host header is not a name or address with an optional port.")
    fields.host = host


def _matter_content_length(fields: Fields, value: bytes) -> None:
    if fields.content_length is not None:
        raise Refused(400, "There is more than one Content-Length.")
    if not value.isdigit() or len(value) > 18:
        raise Refused(400, "Content-Length is not a number.")
    fields.content_length = int(value)


def _matter_transfer_encoding(fields: Fields, value: bytes) -> None:
    if fields.chunked:
        raise Refused(400, "There is more than one Transfer-Encoding.")
    if value.lower() != b"chunked":
        raise Refused(501, "The only Transfer-Encoding that is understood is: chunked.")
    fields.chunked = True


def _matter_connection(fields: Fields, value: bytes) -> None:
    for word in value.split(b","):
        match word.strip(b" \t").lower():
            case b"close":
                fields.close = True
            case b"keep-alive":
                fields.keep_alive = True


def _matter_upgrade(fields: Fields, value: bytes) -> None:
    fields.upgrade = value.lower()


def _matter_expect(fields: Fields, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise Refused(417, "The only expectation that can be met is: 100-continue.")
    fields.expect_continue = True


def _matter_te(fields: Fields, value: bytes) -> None:
    if any(word.strip(b" \t").lower() == b"trailers" for word in value.split(b",")):
        fields.trailers = True


_matter = {
    b"host": _matter_host,
    b"content-length": _matter_content_length,
    b"transfer-encoding": _matter_transfer_encoding,
    b"connection": _matter_connection,
    b"upgrade": _matter_upgrade,
    b"expect": _matter_expect,
    b"te": _matter_te,
}
