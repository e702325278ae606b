from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fildes.wire.http_body import EXTRA_LIMIT, LINE_LIMIT, Chunked, Sized
from fildes.wire.http_fields import Refused


def feed(data: bytes, sizes: list[int] | None = None) -> tuple[bytes, bytes, bool]:
    reader = Chunked()
    out = b""
    at = 0
    for size in [*(sizes or []), len(data)]:
        if reader.done or at >= len(data):
            break
        out += reader.feed(data[at : at + size])
        at += size
    return out, reader.rest + data[at:], reader.done


GOOD = {
    b"0\r\n\r\n": b"",
    b"3\r\nabc\r\n0\r\n\r\n": b"abc",
    b"003\r\nabc\r\n0a\r\n0123456789\r\n000\r\n\r\n": b"abc0123456789",
    b"A\r\n0123456789\r\n0\r\n\r\n": b"0123456789",
    b'3;a=b;c\r\nabc\r\n0;x="y z;"\r\n\r\n': b"abc",
    b"3\r\na\r\n\r\n0\r\nX: y\r\nZ:\r\n\r\n": b"a\r\n",
}

BAD = [
    b"\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\n",
    b"0x1\r\n",
    b" 1\r\n",
    b"1 \r\n",
    b"1_0\r\n",
    b"3;\r\nabc\r\n0\r\n",
    b"3 ;a\r\nabc\r\n0\r\n",
    b"3; a\r\nabc\r\n0\r\n",
    b"3;a=\r\nabc\r\n0\r\n",
    b'3;a="\\""\r\nabc\r\n0\r\n',
    b"3\nabc\n0\n\n",
    b"3\r\nabc\n",
    b"3\r\nabcd\r\n",
    b"3\r\nabc0\r\n\r\n",
    b"3;\x00\r\n",
    b"3;a\rb\r\n",
    b"1234567890abc\r\n",
    b"0\r\nX y\r\n\r\n",
    b"0\r\n x: y\r\n\r\n",
    b"0\r\nX: \x01\r\n\r\n",
    b"0\r\nX\r\n\r\n",
    b"0\r\nContent-Length: 3\r\n\r\n",
    b"0\r\nX: y\n\r\n\r\n",
    b"1" * LINE_LIMIT,
    b"1;" + b"a" * LINE_LIMIT + b"\r\n",
    b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * (EXTRA_LIMIT // 37 + 1),
    b"0\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * (EXTRA_LIMIT // 30 + 1),
]


@pytest.mark.parametrize("data", GOOD)
def test_good(data: bytes) -> None:
    for sizes in (None, [1] * len(data), [2] * len(data), [3] * len(data)):
        assert feed(data, sizes) == (GOOD[data], b"", True)
        assert feed(data + b"GET /", sizes) == (GOOD[data], b"GET /", True)
    for size in range(len(data)):
        assert not feed(data[:size])[2]


@pytest.mark.parametrize("data", BAD)
def test_bad(data: bytes) -> None:
    for sizes in (None, [1] * len(data)):
        with pytest.raises(Refused) as refused:
            feed(data + b"\r\n", sizes)
        assert refused.value.bad.status == 400


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40)), st.lists(st.integers(1, 9)), st.binary(max_size=9))
def test_pieces_of_any_size(chunks: list[bytes], sizes: list[int], more: bytes) -> None:
    data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert feed(data + more, sizes) == (b"".join(chunks), more, True)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from([b"\r\n", b"3", b"0", b"abc", b";", b"a=b", b"X: y", b"\n"]), st.binary(max_size=2)),
        max_size=12,
    ).map(b"".join)
)
def test_whatever_comes(data: bytes) -> None:
    try:
        whole: object = feed(data)
    except Refused:
        whole = None
    try:
        pieces: object = feed(data, [1] * len(data))
    except Refused:
        pieces = None
    assert whole == pieces
    if isinstance(whole, tuple) and whole[2]:
        server = h11.Connection(h11.SERVER)
        server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
        assert isinstance(server.next_event(), h11.Request)
        body = b""
        while isinstance(event := server.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        assert (body, server.trailing_data[0]) == whole[:2]


def test_sized() -> None:
    reader = Sized(5)
    assert (reader.feed(b"ab"), reader.done) == (b"ab", False)
    assert (reader.feed(b"cdeGET"), reader.done, reader.rest) == (b"cde", True, b"GET")
    assert Sized(0).done
    exact = Sized(2)
    assert (exact.feed(b"ab"), exact.done, exact.rest) == (b"ab", True, b"")
