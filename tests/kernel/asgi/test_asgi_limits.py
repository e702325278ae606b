"""What one request may take: time until its answer, bytes of body, a place; and clients that never read."""

from __future__ import annotations

import socket
from typing import Any

import pytest

GET = b"GET %b HTTP/1.1\r\nHost: a.example\r\n%b\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a.example\r\n%b\r\n"


def test_an_answer_that_never_begins_is_a_504(make_stage: Any) -> None:
    stage = make_stage(timeout=0.3, concurrency=1)
    stage.start()
    answer = stage.raw(GET % (b"/hang", b""))
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"connection: close\r\n" in answer
    assert stage.ask("/")[0] == 200  # its place is free again
    assert "GET /hang: no answer within 0.3 s ([limits] timeout)" in stage.log()
    assert "cancelled" in stage.log()
    assert "Traceback" not in stage.log()


def test_an_answer_that_has_begun_takes_as_long_as_it_takes(make_stage: Any) -> None:
    stage = make_stage(timeout=0.2)
    stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % (b"/events", b""))
        data = b""
        while b"data: 60" not in data:  # one in 10 ms
            more = sock.recv(65536)
            assert more, data
            data += more


def test_the_time_that_a_body_takes_is_the_clients(make_stage: Any) -> None:
    stage = make_stage(timeout=0.3)
    stage.start()
    with stage.connect() as sock:
        sock.sendall(POST % (b"/echo", b"Content-Length: 8\r\nConnection: close\r\n"))
        with stage.connect() as other:
            for n in range(8):
                sock.sendall(b"%d" % n)
                assert stage.raw(GET % (b"/late", b"Connection: close\r\n")).endswith(b"late")  # 50 ms
            del other
        assert stage.read_all(sock).endswith(b"01234567")


def test_a_request_that_never_gets_its_turn_is_a_503(make_stage: Any) -> None:
    stage = make_stage(timeout=0.6, concurrency=1)
    stage.start()
    with stage.connect() as kept, stage.connect() as running:
        kept.sendall(GET % (b"/", b""))
        assert kept.recv(1000).endswith(b"Hello")
        running.sendall(GET % (b"/events?quiet", b""))
        assert running.recv(1000)
        kept.sendall(GET % (b"/", b""))
        answer = stage.read_all(kept)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in answer


@pytest.mark.parametrize("size", [1001, 1 << 40])
def test_a_body_that_is_too_long_is_a_413(small: Any, size: int) -> None:
    answer = small.raw(POST % (b"/echo", b"Content-Length: %d\r\n" % size) + bytes(1001))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close\r\n" in answer
    assert b"1000 bytes" in answer


def test_and_nobody_is_asked_to_send_it(small: Any) -> None:
    answer = small.raw(POST % (b"/echo", b"Content-Length: 1001\r\nExpect: 100-continue\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_the_same_in_chunks(small: Any) -> None:
    chunked = POST % (b"/echo", b"Transfer-Encoding: chunked\r\nConnection: close\r\n")
    chunk = b"64\r\n" + bytes(100) + b"\r\n"
    assert small.raw(chunked + chunk * 10 + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    answer = small.raw(chunked + chunk * 10 + b"1\r\nx\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_body_that_becomes_too_long_after_the_answer_began_ends_the_connection(small: Any) -> None:
    chunked = POST % (b"/headfirst", b"Transfer-Encoding: chunked\r\n")
    answer = small.raw(chunked + b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("pieces", [1, 3])
def test_trailers(stage: Any, pieces: int) -> None:
    path = b"/trailers?%d" % pieces
    body = b"5\r\npiece\r\n" * (pieces - 1) + b"4\r\nlast\r\n0\r\n"
    answer = stage.raw(GET % (path, b"TE: trailers\r\nConnection: close, TE\r\n"))
    assert b"x-extension: 1\r\n" in answer
    assert answer.endswith(body + b"x-pieces: %d\r\nx-more: yes\r\n\r\n" % pieces)
    # Who has not asked for them gets none.
    answer = stage.raw(GET % (path, b"Connection: close\r\n"))
    assert b"x-extension: 0\r\n" in answer
    assert answer.endswith(body + b"\r\n")
    old = stage.raw((GET % (path, b"TE: trailers\r\n")).replace(b"1.1", b"1.0"))
    assert old.endswith(b"\r\n\r\n" + b"piece" * (pieces - 1) + b"last")
    with stage.connect() as sock:  # and the connection can be used again
        sock.sendall(GET % (path, b"TE: trailers\r\n"))
        data = b""
        while not data.endswith(b"x-more: yes\r\n\r\n"):
            data += sock.recv(1000)
        sock.sendall(GET % (b"/", b""))
        assert sock.recv(1000).endswith(b"Hello")


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096


@pytest.mark.parametrize(("path", "concurrency", "clients"), [(b"/block", 4, 600), (b"/large", 16, 60)])
def test_clients_that_never_read_harm_nobody_else(
    make_stage: Any, loop: str, path: bytes, concurrency: int, clients: int
) -> None:
    """They take memory, as much as is allowed to all of them together, and no place: others are answered soon."""
    if loop != "uvloop":
        pytest.skip("once is enough: it takes seconds, and the event loop has no part in it")
    stage = make_stage(concurrency=concurrency, owed=8 << 20, room=100000)
    instance = stage.start()
    door = stage.door._listener
    door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of all that it accepts: the kernel's memory is finite
    stage.ask("/")
    before = resident(instance.pid)
    stalled: list[socket.socket] = []
    highest = 0
    try:
        for n in range(clients):
            sock = socket.socket()
            stalled.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(10)
            sock.connect(("127.0.0.1", stage.door.port))
            sock.sendall(GET % (path, b""))
            if n % (clients // 10) == 0:
                assert stage.ask("/")[:2] == (200, b"Hello")
                highest = max(highest, resident(instance.pid) - before)
        assert stage.ask("/late")[:2] == (200, b"late")
        assert highest < 80 << 20
    finally:
        for sock in stalled:
            sock.close()
    # Nothing is left of them.
    stage.until(lambda: sum(kind.startswith("socket:") for kind in instance.fds().values()) == 4)
    assert "Traceback" not in stage.log()


def test_a_slow_reader_gets_it_all(make_stage: Any) -> None:
    """An answer that its program was done with long ago; and the next one on the same connection."""
    stage = make_stage(concurrency=1)
    stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % (b"/big", b"") + GET % (b"/", b"Connection: close\r\n"))
        for _ in range(3):
            assert stage.ask("/")[1] == b"Hello"  # the only place is free
        data = stage.read_all(sock)
        assert data.count(b"200 OK") == 2
        assert len(data) > 5 << 20
        assert data.endswith(b"Hello")
