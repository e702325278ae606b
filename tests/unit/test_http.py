"""Every case is fed whole, byte by byte, and with something behind it: the answer must be the same."""

from __future__ import annotations

import contextlib

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fildes.testing.oddities import BAD, get
from fildes.wire import http, http_fields
from fildes.wire.http import INCOMPLETE, Bad, Head, parse


def describe(result: object) -> object:
    if not isinstance(result, Head):
        return result
    return (
        result.method, result.target, result.path, result.query, result.version, result.host, result.headers,
        result.keep_alive, result.content_length, result.chunked, result.upgrade, result.expect_continue,
    )  # fmt: skip


def in_pieces(data: bytes) -> Head | Bad | http.Incomplete:
    for size in range(1, len(data) + 1):
        result = parse(data[:size])
        if result is not INCOMPLETE:
            return result
    return INCOMPLETE


GOOD = {
    "plain": (get(), {"method": "GET", "path": "/", "host": "a.example", "keep_alive": True, "version": "1.1"}),
    "query": (get(b"/a/b?c=d?e&%zz"), {"path": "/a/b", "query": b"c=d?e&%zz", "target": b"/a/b?c=d?e&%zz"}),
    "escapes": (get(b"/%41%20%c3%a9"), {"path": "/A é", "raw_path": b"/%41%20%c3%a9"}),
    "not UTF-8": (get(b"/%ff"), {"path": "/\ufffd"}),
    "what browsers leave bare": (get(b"/a|b[1]?q={x}|`^\\"), {"query": b"q={x}|`^\\"}),
    "absolute": (get(b"http://A.example/x?y"), {"path": "/x", "query": b"y", "target": b"http://A.example/x?y"}),
    "absolute, no path": (get(b"HTTP://a.example"), {"path": "/"}),
    "absolute, only a query": (get(b"https://a.example?q"), {"path": "/", "query": b"q"}),
    "a method of its own": (get().replace(b"GET", b"M-SEARCH", 1), {"method": "M-SEARCH"}),
    "lower case is another method": (get().replace(b"GET", b"get", 1), {"method": "get"}),
    "an empty line first": (b"\r\n" + get(), {"path": "/"}),
    "port": (get(host=b"Host: B.Example:8080\r\n"), {"host": "b.example"}),
    "final dot": (get(host=b"host:b.example.\r\n"), {"host": "b.example"}),
    "IPv6": (get(host=b"Host: [::1]:80\r\n"), {"host": "[::1]"}),
    "1.0": (get(version=b"HTTP/1.0"), {"version": "1.0", "keep_alive": False}),
    "1.0, kept": (get(b"/", b"Connection: Keep-Alive", version=b"HTTP/1.0"), {"keep_alive": True}),
    "1.0 can't expect": (get(b"/", b"Expect: 100-continue", version=b"HTTP/1.0"), {"expect_continue": False}),
    "close": (get(b"/", b"Connection: foo, Close"), {"keep_alive": False}),
    "close wins": (get(b"/", b"Connection: keep-alive", b"Connection: close"), {"keep_alive": False}),
    "length": (get(b"/", b"Content-Length: 0042"), {"content_length": 42, "chunked": False}),
    "chunked": (get(b"/", b"transfer-encoding:\tChunked "), {"content_length": None, "chunked": True}),
    "expects": (get(b"/", b"Expect: 100-Continue"), {"expect_continue": True}),
    "upgrade": (get(b"/", b"Upgrade: WebSocket", b"Connection: keep-alive, Upgrade"), {"upgrade": b"websocket"}),
    "upgrade unsaid": (get(b"/", b"Upgrade: WebSocket"), {"upgrade": b""}),
    "blanks, empty values, obs-text": (
        get(b"/", b"X-A: \t b  c \t", b"x-b:", b"X-C: \xe9"),
        {"headers": [(b"host", b"a.example"), (b"x-a", b"b  c"), (b"x-b", b""), (b"x-c", b"\xe9")]},
    ),
}


@pytest.fixture(autouse=True, params=["cold", "warm"])
def tables(request: pytest.FixtureRequest) -> str:
    for table in (http._lines, http_fields.remembered_blocks, http_fields._known, http_fields._matters):
        table.clear()
    return str(request.param)


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str, tables: str) -> None:
    data, expected = GOOD[name]
    if tables == "warm":
        parse(data)
    head = parse(data)
    assert isinstance(head, Head), head
    assert {key: getattr(head, key) for key in expected} == expected
    assert head.length == len(data)
    more = parse(data + b"\0trailing\r\n\r\n")
    assert isinstance(more, Head)
    assert more.length == len(data)
    assert describe(more) == describe(head) == describe(in_pieces(data))
    for size in range(len(data)):
        assert parse(data[:size]) is INCOMPLETE


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str, tables: str) -> None:
    data, status = BAD[name]
    if tables == "warm":
        parse(data)
    result = parse(data)
    assert isinstance(result, Bad), describe(result)
    assert result.status == status
    assert isinstance(parse(data + b"trailing"), Bad)
    if len(data) < 5000:
        pieces = in_pieces(data)
        assert isinstance(pieces, Bad)
        # Refused at the first byte that nothing can mend, so perhaps for another reason.
        assert pieces.status in {status, 400}


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"\n", b"{", b"GET / HTTP/1.1\r\nHost: a\n", b"GET / HTTP/3.0\r\n"])
def test_hopeless_beginnings_are_refused_at_once(data: bytes) -> None:
    assert isinstance(parse(data), Bad)


def test_heads_of_the_greatest_size() -> None:
    room = http.HEAD_LIMIT - len(get(b"/", *[b"X: " + b"a" * 1000] * 60, b"Y: "))
    data = get(b"/", *[b"X: " + b"a" * 1000] * 60, b"Y: " + b"b" * room)
    assert len(data) == http.HEAD_LIMIT
    assert isinstance(parse(data), Head)
    assert isinstance(parse(data[:-1]), http.Incomplete)
    data = get(b"/", *[b"X: " + b"a" * 1000] * 60, b"Y: " + b"b" * (room + 1))
    assert parse(data).status == 431
    assert parse(data[:-1]).status == 431


def test_secrets_are_not_remembered() -> None:
    parse(get(b"/?token=1", b"Cookie: secret", b"Authorization: secret", b"X: kept"))
    remembered = [*http._lines, *http_fields.remembered_blocks, *http_fields._known]
    assert not [line for line in remembered if b"secret" in line or b"token" in line]
    assert b"X: kept" in remembered


def test_the_tables_stay_small_and_right() -> None:
    for n in range(3000):
        head = parse(get(b"/%d" % n, b"X-%d: a" % n, b"Content-Length: %d" % n))
        assert isinstance(head, Head)
        assert head.content_length == n
    assert len(http._lines) <= 512
    assert len(http_fields.remembered_blocks) <= 128
    assert len(http_fields._known) <= 512 + http.FIELD_LIMIT
    assert len(http_fields._matters) <= len(http_fields._known)


def test_a_clearing_never_forgets_what_matters() -> None:
    data = get(b"/", b"Content-Length: 5", b"Cookie: a", b"Transfer-Encoding: chunked")
    for n in range(600):
        parse(get(b"/", b"X-%d: a" % n, b"Cookie: a"))
        assert isinstance(parse(data), Bad)


@pytest.mark.parametrize(
    ("path", "prefix", "belongs"),
    [("/", "", True), ("/a", "/a", True), ("/a/b", "/a", True), ("/ab", "/a", False), ("/", "/a", False)],
)
def test_under(path: str, prefix: str, belongs: bool) -> None:
    assert http.under(path, prefix) is belongs


def test_refusal_is_a_response() -> None:
    data = http.refusal(Bad(503, "Later, please."), "Retry-After: 1\r\n")
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert response.status_code == 503
    assert (b"retry-after", b"1") in list(response.headers)
    assert b"Later" in client.next_event().data


# Against two other parsers: what we take, they take, and they read the same out of it.


class ByHttptools:
    def __init__(self, data: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(httptools.HttpParserUpgrade):
            self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()


def by_h11(data: bytes) -> h11.Request:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * http.HEAD_LIMIT)
    server.receive_data(data)
    return server.next_event()


def agree(data: bytes) -> None:
    head = parse(data)
    if not isinstance(head, Head):
        return
    request = by_h11(data[: head.length].removeprefix(b"\r\n"))
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (head.method.encode(), head.target)
    expected = [
        (n, v.lower() if n in (b"transfer-encoding",) else v.lstrip(b"0") or b"0" if n == b"content-length" else v)
        for n, v in head.headers
    ]
    mine = [(n, v.lstrip(b"0") or b"0" if n == b"content-length" else v) for n, v in request.headers]
    assert mine == expected
    # httptools knows the registered methods only.
    if head.method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"}:
        other = ByHttptools(data[: head.length])
        assert other.complete
        assert other.url == head.target
        assert other.headers == head.headers
        assert other.parser.get_http_version() == head.version
        assert other.keep_alive == head.keep_alive or head.upgrade


@pytest.mark.parametrize("name", GOOD)
def test_others_read_the_same(name: str) -> None:
    agree(GOOD[name][0])


PIECES = st.sampled_from(
    [b"GET ", b"POST ", b"/", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: a\r\n", b"Host:a", b"\r\n", b"\n", b"\r",
     b" ", b"\t", b":", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
     b"X: y\r\n", b"Cookie: a=b\r\n", b"\0", b"\xff", b"http://a/", b"%41", b"?", b"Upgrade: websocket\r\n",
     b"Connection: upgrade\r\n", b"Expect: 100-continue\r\n", b"\r\n\r\n"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(PIECES, st.binary(max_size=4)), max_size=14).map(b"".join))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
def test_whatever_comes(data: bytes) -> None:
    whole = parse(data)
    assert isinstance(whole, Head | Bad | http.Incomplete)
    pieces = in_pieces(data)
    if isinstance(whole, Head):
        assert describe(pieces) == describe(whole)
        agree(data)
    elif whole is INCOMPLETE:
        assert pieces is INCOMPLETE
    else:
        assert isinstance(pieces, Bad)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"GET", b"POST", b"PUT"]),
    st.binary(max_size=12),
    st.lists(
        st.tuples(st.sampled_from([b"x", b"Host", b"connection", b"Content-Length", b"Cookie"]), st.binary(max_size=8))
    ),
)
def test_requests_with_strange_insides(method: bytes, path: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    data = method + b" /" + path + b" HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n"
    whole = parse(data)
    if isinstance(whole, Head):
        assert describe(in_pieces(data)) == describe(whole)
        agree(data)
