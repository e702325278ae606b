"""Bodies of requests: by length, in chunks, too large, too slow, or not read at all."""

from __future__ import annotations

import hashlib
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


def told(body: bytes) -> bytes:
    return b"%d %s" % (len(body), hashlib.sha256(body).hexdigest().encode())


def test_by_length(stage: Any) -> None:
    for size in (0, 1, 5000, 16384, 70000, 3 << 20):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert stage.ask("/echo", "POST", body)[:2] == (200, told(body))


def test_in_chunks(stage: Any) -> None:
    chunks = b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: z\r\n\r\n"
    data = POST % (b"/echo", b"Transfer-Encoding: chunked\r\n") + chunks
    assert stage.raw(data + GET).count(told(b"abc0123456789") + b"HTTP/1.1 200 OK") == 1
    with stage.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(len(data)):
            sock.sendall(data[n : n + 1])
        assert head(sock).startswith(b"HTTP/1.1 200 OK")


def test_lines(stage: Any) -> None:
    body = b"first line\nsecond\n12\n\nlast" + b"x" * 20000
    expected = repr(((b"first line\n", b"sec", b"on", b"d\n"), [b"12\n", b"\n", b"last" + b"x" * 20000], b""))
    assert stage.ask("/lines", "POST", body)[1] == expected.encode()
    small = stage.ask("/lines", "POST", body[:26])[1]
    assert small.endswith(b"b'last'], b'')")


@pytest.mark.parametrize("chunks", [b"g\r\n", b"3\r\nabcd\r\n", b"3\nabc\n0\n\n", b"-1\r\n", b"1 \r\na\r\n0\r\n\r\n"])
@pytest.mark.parametrize("path", [b"/echo", b"/tolerant"])
def test_broken_chunks_are_a_400_whatever_the_program_says(stage: Any, path: bytes, chunks: bytes) -> None:
    answer = stage.raw(POST % (path, b"Transfer-Encoding: chunked\r\n") + chunks)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_broken_chunks_after_the_response_began_close(stage: Any) -> None:
    answer = stage.raw(POST % (b"/interim", b"Transfer-Encoding: chunked\r\n") + b"g\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert not answer.endswith(b"0\r\n\r\n")


def test_100_continue_is_sent_when_the_program_reads(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(POST % (b"/half", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        assert head(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert head(sock).startswith(b"HTTP/1.1 200 OK")
        assert sock.recv(99) == b"abc"
        sock.sendall(GET)
        assert stage.read_all(sock).endswith(b"Hello")


def test_no_100_continue_when_nobody_waits_for_it(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(POST % (b"/hello", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        answer = head(sock)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close\r\n" in answer  # whether the body comes is unknown
    data = POST % (b"/half", b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n") + b"abc"
    assert b"100 Continue" not in stage.raw(data)


def test_bodies_that_nobody_reads(stage: Any) -> None:
    for size in (10, 20000, 200_000):
        data = POST % (b"/ignores", b"Content-Length: %d\r\n" % size) + b"x" * size
        assert stage.raw(data + GET).count(b"200 OK") == 2
    chunked = POST % (b"/half", b"Transfer-Encoding: chunked\r\n") + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    assert stage.raw(chunked + GET).count(b"200 OK") == 2
    # Too much to read for nothing: the answer arrives all the same.
    with stage.connect() as sock:
        sock.sendall(POST % (b"/ignores", b"Content-Length: 90000000\r\n") + b"x" * 100_000)
        assert stage.read_all(sock).endswith(b"ignored")


def test_the_limit(make_stage: Any) -> None:
    stage = make_stage(body=1000)
    stage.start()
    assert stage.ask("/echo", "POST", b"x" * 1000)[0] == 200
    assert stage.ask("/echo", "POST", b"x" * 1001)[0] == 413
    chunked = POST % (b"/echo", b"Transfer-Encoding: chunked\r\n")
    assert stage.raw(chunked + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n" + GET).startswith(b"HTTP/1.1 200 ")
    for path in (b"/echo", b"/tolerant"):
        chunked = POST % (path, b"Transfer-Encoding: chunked\r\n")
        assert stage.raw(chunked + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_clients_that_leave_in_the_middle(stage: Any) -> None:
    before = stage.instances[0].fds()
    for size in (100, 100_000):
        data = POST % (b"/echo", b"Content-Length: %d\r\n" % size) + b"x" * (size // 2)
        for cut in (len(data), len(data) - 30, 60):
            for half in (False, True):
                with stage.connect() as sock:
                    sock.sendall(data[:cut])
                    if half:
                        sock.shutdown(socket.SHUT_WR)
                        assert stage.read_all(sock) in (b"",)
    stage.until(lambda: stage.instances[0].fds() == before)
    assert stage.ask("/")[1] == b"Hello"
    assert "Traceback" not in stage.log().replace("on purpose", "")


def test_small_bodies_take_no_thread(make_stage: Any) -> None:
    """More clients than there are threads have sent half of a form; others are answered."""
    stage = make_stage(concurrency=2)
    stage.start()
    slow = [stage.connect() for _ in range(12)]
    for sock in slow:
        sock.sendall(POST % (b"/echo", b"Content-Length: 1000\r\n") + b"x" * 500)
    stage.until(lambda: len(stage.door.taken) == 12)
    for _ in range(5):
        assert stage.ask("/")[1] == b"Hello"
    for sock in slow:
        sock.sendall(b"x" * 500)
    for sock in slow:
        assert head(sock).startswith(b"HTTP/1.1 200 OK")
        sock.close()
