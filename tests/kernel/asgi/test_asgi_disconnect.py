"""Clients that go away."""

from __future__ import annotations

import socket
import struct
from typing import Any

GET = b"GET %b HTTP/1.1\r\nHost: a.example\r\n\r\n"


def events(stage: Any, query: bytes = b"") -> socket.socket:
    sock = stage.connect()
    sock.sendall(GET % (b"/events" + query))
    data = b""
    while b"data: 0" not in data:
        data += sock.recv(65536)
    return sock


def test_server_sent_events_come_as_they_happen_and_end_with_the_client(stage: Any) -> None:
    sock = events(stage)
    data = b""
    while b"data: 5" not in data:
        data += sock.recv(65536)
    before = stage.log().count("the client is gone")
    sock.close()
    stage.until(lambda: stage.log().count("the client is gone") > before)


def test_a_quiet_stream_ends_with_its_client_too(stage: Any) -> None:
    sock = events(stage, b"?quiet")
    before = stage.log().count("the client is gone")
    sock.close()
    stage.until(lambda: stage.log().count("the client is gone") > before)


def test_a_reset_is_noticed_at_once(stage: Any) -> None:
    sock = events(stage, b"?quiet")
    before = stage.log().count("the client is gone")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    stage.until(lambda: stage.log().count("the client is gone") > before, 1.5)


def test_the_program_is_told(stage: Any) -> None:
    sock = stage.connect()
    sock.sendall(GET % b"/disconnect")
    sock.close()
    stage.until(lambda: "got http.disconnect" in stage.log())


def test_a_client_that_goes_while_a_large_response_is_written(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(GET % b"/large")
        assert sock.recv(1000)
    assert stage.ask("/")[0] == 200
    assert "Traceback" not in stage.log()


def test_nothing_is_left_of_them(make_stage: Any) -> None:
    """The same descriptors before and after; what the door holds is gone too."""
    stage = make_stage()
    stage.start()
    stage.ask("/")

    def sockets() -> int:
        return sum(kind.startswith("socket:") for kind in stage.instances[0].fds().values())

    # Conveyor, handle, and the loop's own pair.
    stage.until(lambda: not stage.door.held and sockets() == 4)
    before = stage.instances[0].fds()
    for path in (b"/", b"/late", b"/stream", b"/large", b"/halfway"):
        for _ in range(5):
            with stage.connect() as sock:
                sock.sendall(GET % path)
                sock.recv(100)
    stage.until(lambda: stage.instances[0].fds() == before)
    stage.until(lambda: not stage.door.held)
