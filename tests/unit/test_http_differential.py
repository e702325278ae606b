"""Our parser beside httptools (llhttp) and h11: what we take, they take, and it means the same to them.

A server in front of us, or behind us, may be built on one of them: a stream of bytes that we and they cut into
different requests is how requests are smuggled. So whole connections are compared: heads and bodies, in one piece and
in many. We may be stricter: STRICTER lists with reasons what both take and we refuse; nothing else may differ.

FILDES_DIFFERENTIAL=20000 runs so many examples of each instead of a few hundred.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import h11
import httptools
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fildes.testing.oddities import BAD, get
from fildes.wire.http import Bad, Head, parse
from fildes.wire.http_body import Chunked, Sized
from fildes.wire.http_fields import Refused

EXAMPLES = int(os.environ.get("FILDES_DIFFERENTIAL", "250"))

# Methods that llhttp knows; h11 and we take any token.
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


@dataclass
class Seen:
    """One request as a parser understood it; header names in lower case."""

    method: str = ""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    last: bool = False  # the connection ends with it, or becomes something else
    old: bool = False  # HTTP/1.0, of which h11 never takes a second request


@dataclass
class Outcome:
    """The requests of a connection, in order, and whether it ended in a refusal.

    `plain` is what was read, but for empty lines before requests: RFC 9112 2.2 has them skipped, which httptools does
    and h11 does not. It is the only thing that we take and one of them refuses.
    """

    requests: list[Seen]
    refused: bool = False
    upgraded: bool = False  # the last one's head asks for that, and httptools reads no further
    plain: bytes = b""


def pieces_of(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


def ours(data: bytes, sizes: list[int]) -> Outcome:
    """As the serving loop reads: heads from all that has come, bodies from each piece."""
    out = Outcome([], plain=data)
    buffer = b""
    reader: Chunked | Sized | None = None
    for piece in pieces_of(data, sizes):
        buffer += piece
        while buffer:
            if reader is None:
                head = parse(buffer)
                if isinstance(head, Bad):
                    out.refused = True
                    return out
                if not isinstance(head, Head):
                    break
                if buffer.startswith(b"\r\n") and not sizes:
                    out.plain = out.plain[: -len(buffer)] + buffer[2:]
                out.requests.append(Seen(head.method, head.target, head.headers))
                out.requests[-1].old = head.version == "1.0"
                out.requests[-1].last = not head.keep_alive or bool(head.upgrade)
                buffer = buffer[head.length :]
                reader = Chunked() if head.chunked else Sized(head.content_length or 0)
            elif not reader.done:
                try:
                    out.requests[-1].body += reader.feed(buffer)
                except Refused:
                    out.refused = True
                    out.requests[-1].body = b""  # how much of it was read before depends on the pieces
                    return out
                buffer = reader.rest
            if reader.done:
                reader = None
                out.requests[-1].complete = True
                if out.requests[-1].last:
                    return out
    return out


class ByHttptools:
    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.requests.append(Seen())
        self._trailing = False

    def on_url(self, url: bytes) -> None:
        self.requests[-1].target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._trailing:  # trailers come by the same way
            self.requests[-1].headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.requests[-1].method = self.parser.get_method().decode()
        self._trailing = True

    def on_body(self, body: bytes) -> None:
        self.requests[-1].body += body

    def on_message_complete(self) -> None:
        self.requests[-1].complete = True


def by_httptools(data: bytes, sizes: list[int]) -> Outcome:
    seen = ByHttptools()
    try:
        for piece in pieces_of(data, sizes):
            seen.parser.feed_data(piece)
    except httptools.HttpParserUpgrade:
        return Outcome(seen.requests, upgraded=True)
    except httptools.HttpParserError:
        return Outcome(seen.requests, refused=True)
    return Outcome(seen.requests)


def by_h11(data: bytes, sizes: list[int]) -> Outcome:
    out = Outcome([])
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 18)
    for piece in pieces_of(data, sizes):
        try:
            server.receive_data(piece)
            while True:
                event = server.next_event()
                if isinstance(event, h11.Request):
                    headers = [(bytes(n), bytes(v)) for n, v in event.headers]
                    out.requests.append(Seen(event.method.decode(), bytes(event.target), headers))
                elif isinstance(event, h11.Data):
                    out.requests[-1].body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    out.requests[-1].complete = True
                    if server.our_state is h11.MIGHT_SWITCH_PROTOCOL or server.our_state is h11.SEND_RESPONSE:
                        server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                        server.send(h11.EndOfMessage())
                    if server.our_state is not h11.DONE or server.their_state is not h11.DONE:
                        return out  # it would close here
                    server.start_next_cycle()
                else:
                    break
        except h11.RemoteProtocolError:
            out.refused = True
            return out
    return out


def normal(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """h11 drops leading zeros of a length, and writes "chunked" small; both are the same to whoever frames by them."""
    same = {b"content-length": lambda value: value.lstrip(b"0") or b"0", b"transfer-encoding": bytes.lower}
    return [(name, same.get(name, bytes)(value)) for name, value in headers]


def compare(data: bytes, sizes: list[int]) -> None:
    """Every request that we take must be theirs too, in the same place, with the same meaning."""
    mine = ours(data, [])
    pieces = ours(data, sizes)
    assert (pieces.requests, pieces.refused) == (mine.requests, mine.refused), "in pieces it means something else"
    for name, other in (("httptools", by_httptools(data, sizes)), ("h11", by_h11(mine.plain, sizes))):
        for n, request in enumerate(mine.requests):
            if name == "httptools" and request.method not in METHODS:
                break
            if name == "h11" and n and mine.requests[n - 1].old:
                break
            assert n < len(other.requests), (name, "does not see a request that we see", request)
            theirs = other.requests[n]
            assert (theirs.method, theirs.target) == (request.method, request.target), name
            assert normal(theirs.headers) == normal(request.headers), name
            if other.upgraded and n == len(other.requests) - 1:
                break
            if request.complete:
                assert theirs.complete, (name, "does not see its end", request)
                assert theirs.body == request.body, (name, "reads another body")
            elif not mine.refused:
                # An incomplete body: nobody may see an end of it, or another request in it.
                assert not theirs.complete, (name, "sees an end where we see none", request)
                assert len(other.requests) == n + 1, (name, "sees a request inside of our body")


# What we refuse although both of them take it. Each may only ever be stricter: nothing here is cut in another way.
STRICTER = {
    "no Host": "without one there is no route; RFC 9112 3.2 asks for a 400 in 1.1",
    "no Host in 1.0": "the same, narrower than the RFC",
    "empty Host": "no service has an empty name",
    "Host of a dot": "as an empty one",
    "Host with a user": "RFC 9110 7.2: a Host is a host and a port; what else is in it confuses routes",
    "Host with a path": "as with a user",
    "Host list": "as with a user",
    "Host with a great port": "no such port",
    "target of another host": "the two could be routed differently",
    "target with a user": "RFC 9110 4.2.4: deprecated, and used to mislead",
    "target of another port": "as of another host",
    "ftp": "we are no proxy",
    "authority": "only CONNECT has it",
    "asterisk": "OPTIONS * is about a server; this is many",
    "connect": "we are no proxy",
    "relative": "RFC 9112 3.2: there is no such form",
    "fragment": "RFC 9112 3.2: never sent; some cut it off, some do not",
    "quote in target": "RFC 3986: must be encoded",
    "angle in query": "as the quote",
    "not ASCII in target": "as the quote",
    "NUL in target": "as the quote",
    "DEL in target": "as the quote",
    "tab in target": "as the quote",
    "%00": "ends a string in C",
    "broken escape": "servers decode it in different ways",
    "broken escape 2": "the same",
    "blank after version": "lenient readers and strict ones differ",
    "method of 33": "no method is so long",
    "two blanks": "lenient readers and strict ones differ",
    "two empty lines": "RFC 9112 2.2 speaks of one",
    "an empty line first": "",
    "blank first": "lenient readers and strict ones differ",
    "folded": "RFC 9112 5.2: obsolete; a server may refuse it",
    "folded by tab": "the same",
}


def taken_by_both(data: bytes) -> bool:
    for other in (by_httptools(data, []), by_h11(data, [])):
        if other.refused or not other.requests or not other.requests[0].complete:
            return False
    return True


@pytest.mark.parametrize("name", BAD)
def test_where_we_are_stricter_there_is_a_reason(name: str) -> None:
    data, status = BAD[name]
    if status not in (431, 414, 417, 501, 505) and taken_by_both(data):
        assert STRICTER.get(name), f"{name!r} is taken by httptools and by h11: say why it is refused here"


REQUESTS = [
    get(),
    get(b"/a?b=c", b"X: y", b"X:  z \t"),
    get(b"/", b"Connection: close"),
    get(b"/", version=b"HTTP/1.0"),
    get(b"/", b"Connection: keep-alive", version=b"HTTP/1.0"),
    b"\r\n" + get(),
    get(b"http://a.example/x"),
    get(b"/", b"Content-Length: 5") + b"abcde",
    get(b"/", b"Content-Length: 0005") + b"GET /",
    get(b"/", b"Content-Length: 0"),
    get(b"/", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    get(b"/", b"Transfer-Encoding: CHUNKED") + b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n",
    get(b"/", b"transfer-encoding:chunked") + b"00a\r\n0123456789\r\n00\r\n\r\n",
    get(b"/", b"Expect: 100-continue", b"Content-Length: 1") + b"x",
]
LINES = st.sampled_from(
    [b"Content-Length: 3", b"Content-Length: 03", b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length:",
     b"Content-Length: 0x3", b"Content-Length : 3", b"Content-Length: 3 ", b"content-length:3",
     b"Content-Length: 3\t", b"Content_Length: 7", b"Content-Length: 99999999999999999999",
     b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked",
     b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked",
     b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: chunked ", b"Transfer-Encoding:\tchunked",
     b"Transfer-Encoding: \"chunked\"", b"Transfer_Encoding: chunked", b"Transfer-Encoding: chunked\r\n ",
     b"X: a\r\n b", b"X: a\nTransfer-Encoding: chunked", b"X: a\rContent-Length: 9", b"X: \x00", b"X", b": a",
     b"Connection: close", b"Connection: Content-Length", b"Connection: upgrade", b"Upgrade: h2c",
     b"Expect: 100-continue", b"X-Long: " + b"a" * 300]
)  # fmt: skip
CHUNKS = st.sampled_from(
    [b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"\r\n", b"3\nabc\n", b"3 \r\nabc\r\n", b"3;x\r\nabc\r\n",
     b" 3\r\nabc\r\n", b"3;\r\nabc\r\n", b"3;a=\"\r\n\"\r\nabc\r\n", b"3;\nabc\r\n", b"03\r\nabc\r\n",
     b"0x3\r\nabc\r\n", b"3\r\nabcd\r\n", b"3\r\nabc\n", b"3\r\nabc\r", b"2\r\nabc\r\n", b"-3\r\n",
     b"ffffffffffffffff\r\n", b"10000000000000003\r\nabc\r\n", b"3_\r\nabc\r\n", b"X: y\r\n\r\n", b"X y\r\n\r\n",
     b"Content-Length: 3\r\n\r\n", b"00000\r\n\r\n", b"abc", b"\n"]
)  # fmt: skip
CUTS = st.lists(st.integers(1, 40), max_size=12)
BRIEF = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("data", REQUESTS)
def test_each_of_the_corpus(data: bytes) -> None:
    for more in (b"", get(b"/next")):
        compare(data + more, [])
        compare(data + more, [1] * len(data + more))
    mine = ours(data, [])
    assert not mine.refused
    assert mine.requests[0].complete


@BRIEF
@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=5).map(b"".join), CUTS)
def test_pipelines(data: bytes, sizes: list[int]) -> None:
    compare(data, sizes)


@BRIEF
@given(
    st.lists(LINES, max_size=3),
    st.one_of(st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"]), st.lists(CHUNKS, max_size=5).map(b"".join)),
    CUTS,
)
@example([b"Content-Length: 3", b"Transfer-Encoding: chunked"], b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n", [])
@example([b"Transfer-Encoding: chunked", b"Connection: Content-Length"], b"3\r\nabc\r\n0\r\n\r\n", [])
def test_framing(lines: list[bytes], body: bytes, sizes: list[int]) -> None:
    """Whatever frames the body, and whatever that body is, with another request behind it."""
    compare(get(b"/", *lines) + body + get(b"/next"), sizes)


@BRIEF
@given(st.lists(st.one_of(CHUNKS, st.binary(max_size=3)), max_size=8).map(b"".join), CUTS)
def test_chunks(body: bytes, sizes: list[int]) -> None:
    compare(get(b"/", b"Transfer-Encoding: chunked") + body + get(b"/next"), sizes)


@BRIEF
@given(st.data(), CUTS)
def test_a_byte_that_is_another(data: st.DataObject, sizes: list[int]) -> None:
    """A good pipeline with one byte changed, left out or put in."""
    good = data.draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3).map(b"".join))
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(
        st.one_of(st.sampled_from([b"\r", b"\n", b" ", b"\t", b":", b"\0", b"\xff", b""]), st.binary(max_size=2))
    )
    compare(good[:at] + byte + good[at + data.draw(st.integers(0, 1)) :], sizes)
