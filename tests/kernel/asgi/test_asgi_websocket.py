"""WebSockets by a client library nobody here wrote, and by hand where it is too polite."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

SHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def dial(stage: Any, path: str = "/chat", **more: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{stage.door.port}{path}", close_timeout=5, **more)


def frame(opcode: int, payload: bytes, fin: bool = True, masked: bool = True) -> bytes:
    head = bytes([opcode | (0x80 if fin else 0), len(payload) | (0x80 if masked else 0)])
    return head + (bytes(4) if masked else b"") + payload


def by_hand(stage: Any, path: bytes = b"/chat") -> socket.socket:
    sock = stage.connect()
    sock.sendall(SHAKE % path)
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(1)
    assert data.startswith(b"HTTP/1.1 101 ")
    # RFC 6455 1.3 has this pair.
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in data
    return sock


def test_messages(stage: Any) -> None:
    with dial(stage, subprotocols=["a", "b"]) as ws:
        assert ws.subprotocol == "a"
        assert ws.response.headers["x-ws"] == "yes"
        for message in ("hello", "", "grüße", b"", b"\0\xff" * 100000, "x" * 200000):
            ws.send(message)
            assert ws.recv(10) == message
        ws.send(["in ", "three ", "fragments"])
        assert ws.recv(10) == "in three fragments"
        assert ws.ping().wait(10)


def test_the_first_frame_with_the_handshake(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(SHAKE % b"/chat" + frame(1, b"early"))
        data = b""
        while not data.endswith(b"early"):
            data += sock.recv(100)


def test_a_client_that_closes(stage: Any) -> None:
    with dial(stage) as ws:
        ws.close(4711, "enough")
        assert ws.close_code == 4711
    stage.until(lambda: "disconnect 4711 enough" in stage.log())


def test_a_client_that_vanishes(stage: Any) -> None:
    before = stage.log().count("disconnect 1006")
    by_hand(stage).close()
    stage.until(lambda: stage.log().count("disconnect 1006") > before)


def test_a_program_that_closes(stage: Any) -> None:
    for message, code in (("close", 4001), ("return", 1000), ("raise", 1011)):
        with dial(stage) as ws:
            ws.send(message)
            with pytest.raises(ConnectionClosed):
                ws.recv(10)
            assert ws.close_code == code


@pytest.mark.parametrize(("path", "status"), [("/refuse", 403), ("/deny", 418), ("/raise", 500), ("/leave", 500)])
def test_handshakes_that_fail(stage: Any, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        dial(stage, path).__enter__()
    assert refused.value.response.status_code == status
    if status == 418:
        assert refused.value.response.headers["x-why"] == "tea"
        assert refused.value.response.body == b"no "


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Sec-WebSocket-Version: 13\r\n", b""),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        (b"Sec-WebSocket-Key", b"X"),
        (b"Upgrade: websocket\r\n", b"Upgrade: websocket\r\nContent-Length: 3\r\n"),
    ],
)
def test_handshakes_that_are_none(stage: Any, old: bytes, new: bytes) -> None:
    assert stage.raw((SHAKE % b"/chat").replace(old, new)).startswith(b"HTTP/1.1 400 ")


def test_a_version_of_the_handshake_that_is_not_spoken(stage: Any) -> None:
    answer = stage.raw((SHAKE % b"/chat").replace(b"Version: 13", b"Version: 8"))
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"sec-websocket-version: 13\r\n" in answer
    assert b"upgrade: websocket\r\n" in answer


def test_an_upgrade_to_something_else_is_a_plain_request(stage: Any) -> None:
    data = (SHAKE % b"/").replace(b"Upgrade: websocket", b"Upgrade: h2c")
    with stage.connect() as sock:
        sock.sendall(data)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"a", masked=False), 1002),
        (frame(1, b"\xff"), 1007),
        (frame(3, b"a"), 1002),
        (frame(9, b"", fin=False), 1002),
        (frame(0, b"a"), 1002),
        (bytes([0xC1, 0x80]) + bytes(4), 1002),
        (frame(8, b"\x00"), 1002),
    ],
)
def test_broken_frames(stage: Any, data: bytes, code: int) -> None:
    with by_hand(stage) as sock:
        sock.sendall(data)
        answer = stage.read_all(sock)
    assert answer[:1] == b"\x88"
    assert int.from_bytes(answer[2:4], "big") == code


def test_a_message_that_is_too_large(stage: Any) -> None:
    with dial(stage, max_size=None) as ws:
        with pytest.raises(ConnectionClosed):
            for _ in range(3):
                ws.send(bytes(16 << 20))
                ws.recv(10)
                ws.send(bytes(1 + (16 << 20)))
        assert ws.close_code == 1009


def test_a_program_that_is_slower_than_its_client(stage: Any) -> None:
    with dial(stage) as ws:
        ws.send("pause")
        for n in range(300):
            ws.send(str(n))
        assert ws.recv(10) == "pause"
        for n in range(300):
            assert ws.recv(10) == str(n)


def test_a_client_that_is_slower_than_the_program(stage: Any) -> None:
    with by_hand(stage, b"/flood") as sock:
        assert stage.ask("/")[0] == 200  # nobody else waits
        size = 0
        while size < 100 * (10 + (1 << 18)):
            size += len(sock.recv(1 << 20))


def test_a_hundred_at_once_take_no_place_from_requests(stage: Any) -> None:
    """`concurrency` is 64, and counts requests."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(dial(stage)) for _ in range(100)]
        assert stage.ask("/")[0] == 200
        for n, ws in enumerate(sockets):
            ws.send(str(n))
        for n, ws in enumerate(sockets):
            assert ws.recv(10) == str(n)


def test_on_an_introduced_stream(stage: Any) -> None:
    with stage.introduce("shop") as sock:
        sock.sendall(SHAKE % b"/chat")
        assert sock.recv(1000).startswith(b"HTTP/1.1 101 ")
        sock.sendall(frame(2, b"abc"))
        assert sock.recv(100) == b"\x82\x03abc"


def test_after_requests_on_the_same_connection(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert sock.recv(1000).endswith(b"Hello")
        sock.sendall(SHAKE % b"/chat")
        assert sock.recv(1000).startswith(b"HTTP/1.1 101 ")


def test_drain(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    with dial(stage) as ws:
        ws.send("x")
        assert ws.recv(10) == "x"
        instance.drain()
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
        assert ws.close_code == 1001
    assert instance.wait() == 0
    assert os.path.exists(stage.log_path)
    assert "disconnect 1001" in stage.log()
