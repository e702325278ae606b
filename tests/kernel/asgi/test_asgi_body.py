"""Bodies of requests, and responses larger than the socket takes."""

from __future__ import annotations

import socket
from typing import Any

import pytest

POST = b"POST %b HTTP/1.1\r\nHost: a.example\r\n%b\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"


def head(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(1)
    return data


def test_bodies_by_length(stage: Any) -> None:
    for size in (0, 1, 5000, 70000, 3 << 20):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert stage.ask("/echo", "POST", body)[:2] == (200, body)


def test_chunked_bodies(stage: Any) -> None:
    chunks = b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: z\r\n\r\n"
    data = POST % (b"/echo", b"Transfer-Encoding: chunked\r\n") + chunks
    assert stage.raw(data + GET).count(b"abc0123456789HTTP/1.1 200 OK") == 1
    with stage.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(len(data)):
            sock.sendall(data[n : n + 1])
        assert b"content-length: 13" in head(sock)


@pytest.mark.parametrize("chunks", [b"g\r\n", b"3\r\nabcd\r\n", b"3\nabc\n0\n\n", b"-1\r\n", b"1 \r\na\r\n0\r\n\r\n"])
def test_broken_chunks_are_a_400(stage: Any, chunks: bytes) -> None:
    answer = stage.raw(POST % (b"/echo", b"Transfer-Encoding: chunked\r\n") + chunks)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_broken_chunks_after_the_response_began_close(stage: Any) -> None:
    answer = stage.raw(POST % (b"/headfirst", b"Transfer-Encoding: chunked\r\n") + b"g\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert not answer.endswith(b"0\r\n\r\n")


def test_100_continue_is_sent_when_the_program_reads(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(POST % (b"/echo", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        assert head(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert head(sock).startswith(b"HTTP/1.1 200 OK")
        assert sock.recv(99) == b"abc"
        sock.sendall(GET)
        assert stage.read_all(sock).endswith(b"Hello")


def test_no_100_continue_when_the_program_does_not_read(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(POST % (b"/hello", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        answer = head(sock)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close\r\n" in answer  # whether the body comes is unknown


def test_no_100_continue_when_the_body_is_there_already(stage: Any) -> None:
    answer = stage.raw(
        POST % (b"/echo", b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n") + b"abc"
    )
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"abc")


def test_a_body_that_nobody_reads_is_skipped(stage: Any) -> None:
    for path in (b"/hello", b"/peek"):
        answer = stage.raw(POST % (path, b"Content-Length: 200000\r\n") + bytes(200000) + GET)
        assert answer.count(b"200 OK") == 2
        assert answer.endswith(b"Hello")
    chunks = b"186a0\r\n" + bytes(100000) + b"\r\n0\r\n\r\n"
    assert stage.raw(POST % (b"/hello", b"Transfer-Encoding: chunked\r\n") + chunks + GET).count(b"200 OK") == 2


def test_a_long_body_that_nobody_reads_ends_the_connection_gently(stage: Any) -> None:
    """The response must arrive, although the client is still sending: no reset before it is read."""
    with stage.connect() as sock:
        sock.sendall(POST % (b"/hello", b"Content-Length: 100000000\r\n") + bytes(100000))
        answer = head(sock)
        assert b"connection: close\r\n" in answer
        sock.sendall(bytes(50000))
        assert sock.recv(99) == b"Hello"
        assert sock.recv(99) == b""


def test_a_client_that_goes_in_the_middle_of_a_body(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(POST % (b"/count", b"Content-Length: 10\r\n") + b"abc")
    assert stage.ask("/")[0] == 200


def test_40_megabytes_to_a_slow_client(stage: Any) -> None:
    """Backpressure: what the client has not taken must not pile up in the instance."""
    pid = stage.instances[0].pid

    def resident() -> int:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    before = resident()
    with stage.connect() as sock:
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
        assert b"content-length: 41943040" in head(sock)
        assert stage.ask("/")[0] == 200
        assert resident() - before < 16 << 20
        size = 0
        while data := sock.recv(1 << 20):
            size += len(data)
    assert size == 40 << 20


def test_one_large_body(stage: Any) -> None:
    assert len(stage.ask("/big")[1]) == 5 << 20
