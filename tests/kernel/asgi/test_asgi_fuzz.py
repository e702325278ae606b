"""Streams of bytes, good and bad and mixed, at an instance of its own: it answers or closes, and serves on.

The instance's verdict must be the parser's: whole requests are answered in order until the first bad one, which gets
its status and ends the connection.
"""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fildes.wire.http import Bad, Head, parse
from fildes.wire.http_body import Chunked, Sized
from fildes.wire.http_fields import Refused

GOOD = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET /late HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a.example\r\nCookie: a=b\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /echo HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n",
        b"\r\nGET /stream HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ]
)
EVIL = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET / HTTP/1.1\nHost: a.example\n\n",
        ]
    ),
)


def expected(data: bytes) -> list[bytes]:
    """The status lines' codes that a stream of bytes deserves, the end of it included."""
    codes: list[bytes] = []
    while data:
        head = parse(data)
        if isinstance(head, Bad):
            return [*codes, b"%d" % head.status]
        if not isinstance(head, Head):
            return codes
        data = data[head.length :]
        reader: Sized | Chunked | None = Chunked() if head.chunked else Sized(head.content_length or 0)
        if head.has_body:
            try:
                reader.feed(data)
            except Refused as refused:
                # /echo reads its body before it answers; / does not, and its answer is out already.
                return [*codes, b"%d" % refused.bad.status if head.path == "/echo" else b"200"]
            if not reader.done:
                return codes if head.path == "/echo" else [*codes, b"200"]
            data = reader.rest
        codes.append(b"200")
        if not head.keep_alive or (head.version == "1.0" and head.path == "/stream"):
            return codes
    return codes


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.one_of(GOOD, GOOD, EVIL), min_size=1, max_size=5), cut=st.integers(1, 200))
def test_streams(stage: Any, parts: list[bytes], cut: int) -> None:
    # The first head is the door's to read: what is tested here comes behind it.
    data = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" + b"".join(parts)
    with stage.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(data[:cut])
        sock.sendall(data[cut:])
        sock.shutdown(socket.SHUT_WR)
        answer = stage.read_all(sock)
    codes = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert codes == expected(data), (data, answer)


def test_it_still_serves(stage: Any) -> None:
    assert stage.ask("/")[0] == 200
    assert "Traceback" not in stage.log()
