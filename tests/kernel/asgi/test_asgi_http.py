"""Requests and responses, by real clients over TCP, under the serve profile, on uvloop and on plain asyncio."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import pytest

GET = b"GET %b HTTP/1.1\r\nHost: a.example\r\n%b\r\n"


def test_hello(stage: Any) -> None:
    assert stage.ask("/")[:2] == (200, b"Hello")
    assert stage.ask("/none")[:2] == (404, b"nothing here")


def test_scope(stage: Any) -> None:
    with stage.connect() as sock:
        own = "{} {}".format(*sock.getsockname())
        sock.sendall(GET % (b"/a%20b/scope?x=%31", b"X-A: 1\r\nConnection: close\r\n"))
        scope = json.loads(stage.read_all(sock).partition(b"\r\n\r\n")[2])
    assert scope["type"] == "http"
    assert scope["http_version"] == "1.1"
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("GET", "/a b/scope", "/a%20b/scope")
    assert (scope["query_string"], scope["scheme"], scope["root_path"]) == ("x=%31", "http", "")
    assert "{} {}".format(*scope["client"]) == own
    assert scope["headers"] == [["host", "a.example"], ["x-a", "1"], ["connection", "close"]]
    assert scope["state"] == {"started": "yes"}
    assert scope["same loop"]


def test_keep_alive_and_pipelines(stage: Any) -> None:
    with stage.connect() as sock:
        for path in (b"/", b"/late", b"/stream", b"/echo"):
            sock.sendall(GET % (path, b""))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            if path == b"/stream":
                while not sock.recv(65536).endswith(b"0\r\n\r\n"):
                    pass
    paths = [b"/", b"/late", b"/bare", b"/thread", b"/stream", b"/status?204", b"/"]
    data = b"".join(GET % (path, b"") for path in paths)[:-2] + b"Connection: close\r\n\r\n"
    everything = stage.raw(data)
    assert everything.count(b"HTTP/1.1 ") == 7
    assert (
        everything.index(b"late") < everything.index(b"no length") < everything.index(b"42") < everything.index(b"end")
    )
    assert everything.endswith(b"Hello")


def test_pipeline_a_byte_at_a_time(stage: Any) -> None:
    data = (
        GET % (b"/", b"")
        + b"POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"
        + GET % (b"/late", b"")
    )
    with stage.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(len(data)):
            sock.sendall(data[n : n + 1])
        sock.shutdown(socket.SHUT_WR)
        everything = stage.read_all(sock)
    assert everything.count(b"200 OK") == 3
    assert everything.endswith(b"late")


def test_half_close_still_gets_its_response(stage: Any) -> None:
    for path in (b"/", b"/late", b"/stream", b"/thread"):
        assert stage.raw(GET % (path, b""), half_close=True).startswith(b"HTTP/1.1 200 OK")
    assert stage.raw(GET % (b"/", b"") * 3, half_close=True).count(b"Hello") == 3


def test_framing(stage: Any) -> None:
    close = b"Connection: close\r\n"
    assert b"content-length: 15\r\n" in stage.raw(GET % (b"/bare", close))
    streamed = stage.raw(GET % (b"/stream", close))
    assert b"transfer-encoding: chunked\r\n" in streamed
    assert streamed.endswith(b"\r\n2\r\n4,\r\n3\r\nend\r\n0\r\n\r\n")
    assert b"connection: close\r\n" in streamed
    old = stage.raw(b"GET /stream HTTP/1.0\r\nHost: a.example\r\n\r\n")
    assert old.endswith(b"\r\n\r\n0,1,2,3,4,end")
    assert b"chunked" not in old
    with stage.connect() as sock:
        for _ in range(2):
            sock.sendall(b"GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n")
            assert b"connection: keep-alive\r\n" in sock.recv(65536)


def test_head(stage: Any) -> None:
    for path, line in (("/", b"content-length: 5"), ("/bare", b"content-length: 15"), ("/stream", b"chunked")):
        data = stage.raw(GET.replace(b"GET", b"HEAD") % (path.encode(), b"Connection: close\r\n"))
        assert line in data
        assert data.endswith(b"\r\n\r\n")
    data = stage.raw(GET.replace(b"GET", b"HEAD") % (b"/", b"") * 2 + GET % (b"/", b"Connection: close\r\n"))
    assert data.count(b"200 OK") == 3
    assert data.count(b"Hello") == 1


def test_statuses_without_a_body(stage: Any) -> None:
    for status in (204, 304):
        data = stage.raw(GET % (b"/status?%d" % status, b"Connection: close\r\n"))
        assert data.startswith(b"HTTP/1.1 %d " % status)
        assert data.endswith(b"\r\n\r\n")
        assert b"content-length" not in data
    assert stage.raw(GET % (b"/status?299", b"Connection: close\r\n")).startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize("path", ["/status?101", "/status?99", "/status?600", "/fails", "/nothing", "/short"])
def test_a_program_that_fails_is_a_500_with_a_traceback_in_its_log(stage: Any, path: str) -> None:
    status, body, headers = stage.ask(path)
    assert status == 500
    assert b"log" in body
    assert headers["connection"] == "close"
    assert "Traceback" in stage.log()
    assert stage.ask("/")[0] == 200


@pytest.mark.parametrize(
    "header", [("x", "a\r\nb: c"), ("x y", "a"), ("", "a"), ("x", "a\0"), ("content-length", "x"), ("x\r\ny", "")]
)
def test_headers_that_would_split_a_response_are_the_programs_error(stage: Any, header: tuple[str, str]) -> None:
    assert stage.ask("/headers?" + json.dumps([header]).encode().hex())[0] == 500


def test_framing_headers_of_the_program_are_not_passed_on(stage: Any) -> None:
    headers = [("Transfer-Encoding", "chunked"), ("Connection", "close"), ("X-Kept", "yes"), ("Set-Cookie", "a=b")]
    status, body, got = stage.ask("/headers?" + json.dumps(headers).encode().hex())
    assert (status, body) == (200, b"ok")
    assert "transfer-encoding" not in got
    assert (got["content-length"], got["x-kept"], got["set-cookie"], got["connection"]) == ("2", "yes", "a=b", "close")


def test_a_response_that_breaks_off_is_seen_to(stage: Any) -> None:
    data = stage.raw(GET % (b"/halfway", b""))
    assert data.endswith(b"4\r\nhalf\r\n")
    assert "halfway, on purpose" in stage.log()


def test_a_stale_send_reaches_nobody(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(GET % (b"/keep", b""))
        assert sock.recv(65536).endswith(b"kept")
        sock.sendall(GET % (b"/stale", b""))
        assert sock.recv(65536).endswith(b"refused")


def test_background_work_does_not_hold_up_the_connection(stage: Any) -> None:
    with stage.connect() as sock:
        sock.sendall(GET % (b"/background", b""))
        assert sock.recv(65536).endswith(b"begun")
        sock.sendall(GET % (b"/", b""))
        assert sock.recv(65536).endswith(b"Hello")
        assert "background done" not in stage.log()


def test_requests_on_two_connections_run_side_by_side(stage: Any) -> None:
    with stage.connect() as one, stage.connect() as other:
        one.sendall(GET % (b"/wait", b"Connection: close\r\n"))
        other.sendall(GET % (b"/go", b"Connection: close\r\n"))
        while not stage.read_all(other).endswith(b"go"):  # it may have come first
            raise AssertionError
        assert stage.read_all(one).endswith(b"gone on")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nX : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a.example\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET /" + b"a" * 20000, 414),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaa\r\n" * 3000, 431),
    ],
)
def test_strict_on_kept_connections_too(stage: Any, data: bytes, status: int) -> None:
    """The door sees the first head only; the instance must be as strict with the next."""
    with stage.connect() as sock:
        sock.sendall(GET % (b"/", b""))
        assert sock.recv(65536).endswith(b"Hello")
        sock.sendall(data)
        answer = stage.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"connection: close\r\n" in answer


def test_curl(stage: Any, tmp_path: Any) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 4096)
    url = f"http://127.0.0.1:{stage.door.port}/echo"
    for arguments in (
        ["--data-binary", f"@{upload}"],  # curl sends Expect: 100-continue by itself
        ["--data-binary", f"@{upload}", "-H", "Transfer-Encoding: chunked"],
        ["-T", str(upload), "-H", "Expect: 100-continue"],
        ["--http1.0", "--data-binary", f"@{upload}"],
    ):
        done = subprocess.run(["curl", "-sS", "-m", "10", *arguments, url], capture_output=True, check=True)
        assert done.stdout == upload.read_bytes()
