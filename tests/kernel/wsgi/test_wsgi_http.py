"""Requests and responses, by real clients over TCP, under the serve profile."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import pytest

GET = b"GET %b HTTP/1.1\r\nHost: a.example\r\n%b\r\n"
CLOSE = b"Connection: close\r\n"


def test_hello(stage: Any) -> None:
    assert stage.ask("/")[:2] == (200, b"Hello")
    assert stage.ask("/none")[:2] == (404, b"nothing here")


def test_environ(stage: Any) -> None:
    with stage.connect() as sock:
        address, port = sock.getsockname()
        lines = (
            b"X-A: 1\r\nX-a: 2\r\nX_A: spoofed\r\nProxy: evil\r\nCookie: a=1\r\nCookie: b=2\r\nContent-Type: t/x\r\n"
        )
        sock.sendall(GET % (b"/a%20b/caf%c3%a9/environ?x=%31&y", lines + CLOSE))
        environ = json.loads(stage.read_all(sock).partition(b"\r\n\r\n")[2])
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/a b/café/environ"
    assert environ["QUERY_STRING"] == "x=%31&y"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("a.example", "80")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (address, str(port))
    assert (environ["HTTP_X_A"], environ["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")
    assert (environ["CONTENT_TYPE"], environ["HTTP_HOST"]) == ("t/x", "a.example")
    assert not {"HTTP_PROXY", "HTTP_CONTENT_TYPE", "CONTENT_LENGTH"} & environ.keys()
    assert (environ["wsgi.version"], environ["wsgi.url_scheme"]) == ([1, 0], "http")
    assert (environ["wsgi.multithread"], environ["wsgi.multiprocess"], environ["wsgi.run_once"]) == (True, True, False)


def test_nothing_of_one_request_is_seen_by_the_next(stage: Any) -> None:
    for n in range(3):
        environ = json.loads(stage.ask("/environ", Cookie=f"c={n}", Authorization=f"Basic {n}")[1])
        assert (environ["HTTP_COOKIE"], environ["HTTP_AUTHORIZATION"]) == (f"c={n}", f"Basic {n}")
    assert "HTTP_COOKIE" not in json.loads(stage.ask("/environ")[1])


def test_the_last_answer_brings_the_end_of_the_connection(stage: Any) -> None:
    """It does not wait until the door lets go of its copy."""
    stage.door.pause.set()
    try:
        data = stage.raw(GET % (b"/", CLOSE))
        assert data.startswith(b"HTTP/1.1 200 ")
        assert stage.door.held
    finally:
        stage.door.pause.clear()
    stage.until(lambda: not stage.door.held)


def test_keep_alive_and_pipelines(stage: Any) -> None:
    paths = [b"/", b"/late", b"/bare", b"/thread", b"/stream", b"/slowly", b"/status?204%20No", b"/closing", b"/"]
    data = b"".join(GET % (path, b"") for path in paths)[:-2] + CLOSE + b"\r\n"
    everything = stage.raw(data)
    assert everything.count(b"HTTP/1.1 ") == len(paths)
    order = [everything.index(word) for word in (b"late", b"no length", b"from a thread", b"end", b"2.", b"closing")]
    assert order == sorted(order)
    assert everything.endswith(b"Hello")
    client = stage.client()
    sockets = set()
    for path in ("/", "/late", "/stream", "/slowly", "/closing", "/echo", "/"):
        client.request("POST", path, b"some body")
        assert client.getresponse().read()
        sockets.add(client.sock)
    client.close()
    assert len(sockets) == 1


def test_pipeline_a_byte_at_a_time(stage: Any) -> None:
    data = GET % (b"/", b"") + b"POST /half HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"
    with stage.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(len(data)):
            sock.sendall(data[n : n + 1])
        sock.sendall(GET % (b"/late", b""))
        sock.shutdown(socket.SHUT_WR)
        everything = stage.read_all(sock)
    assert everything.count(b"200 OK") == 3
    assert everything.endswith(b"late")


def test_half_close_still_gets_its_response(stage: Any) -> None:
    for path in (b"/", b"/late", b"/stream", b"/thread", b"/slowly"):
        assert stage.raw(GET % (path, b""), half_close=True).startswith(b"HTTP/1.1 200 OK")
    assert stage.raw(GET % (b"/", b"") * 3, half_close=True).count(b"Hello") == 3


def test_framing(stage: Any) -> None:
    assert b"Content-Length: 15\r\n".lower() in stage.raw(GET % (b"/bare", CLOSE)).lower()
    assert stage.raw(GET % (b"/pieces", CLOSE)).endswith(b"content-length: 7\r\nconnection: close\r\n\r\none two")
    streamed = stage.raw(GET % (b"/stream", CLOSE))
    assert b"transfer-encoding: chunked\r\n" in streamed
    assert streamed.endswith(b"\r\n2\r\n4,\r\n3\r\nend\r\n0\r\n\r\n")
    assert stage.raw(GET % (b"/write", CLOSE)).endswith(b"9\r\nwritten, \r\n7\r\nagain, \r\n8\r\nreturned\r\n0\r\n\r\n")
    assert stage.ask("/after")[1] == b"begun"


def test_http_1_0(stage: Any) -> None:
    get = b"GET %b HTTP/1.0\r\nHost: a.example\r\n%b\r\n"
    answer = stage.raw(get % (b"/stream", b""))
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\n0,1,2,3,4,end")
    assert b"connection: close" in answer
    kept = stage.raw(get % (b"/", b"Connection: keep-alive\r\n") + get % (b"/", b""))
    assert kept.count(b"Hello") == 2
    assert b"connection: keep-alive" in kept


def test_head(stage: Any) -> None:
    for path in (b"/", b"/stream", b"/bare", b"/write", b"/closing?head", b"/big?100000"):
        data = b"HEAD %b HTTP/1.1\r\nHost: a.example\r\n\r\n" % path + GET % (b"/", CLOSE)
        everything = stage.raw(data)
        assert everything.count(b"HTTP/1.1 200") == 2, path
        assert everything.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200"), path
    assert "head" in json.loads(stage.ask("/closed")[1])


def test_status_lines(stage: Any) -> None:
    assert stage.raw(GET % (b"/status?299%20As%20You%20Like", CLOSE)).startswith(b"HTTP/1.1 299 As You Like\r\n")
    assert stage.raw(GET % (b"/status?200", CLOSE)).startswith(b"HTTP/1.1 200 \r\n")
    for status in (b"204%20No", b"304%20Not"):
        answer = stage.raw(GET % (b"/status?" + status, CLOSE))
        assert b"chunked" not in answer and answer.endswith(b"\r\n\r\n")
    for status in (b"100%20Continue", b"600%20x", b"abc", b"", b"2000", b"200OK"):
        assert stage.raw(GET % (b"/status?" + status, CLOSE)).startswith(b"HTTP/1.1 500 "), status


def test_headers(stage: Any) -> None:
    answer = stage.raw(GET % (b"/header?X-Mine=1", CLOSE))
    assert b"X-Mine: 1\r\n" in answer and b"X-Latin: caf\xe9\r\n" in answer
    for query in (b"X=a%0D%0AY:%20b", b"X:A=1", b"=1"):
        assert stage.raw(GET % (b"/header?" + query, CLOSE)).startswith(b"HTTP/1.1 500 "), query
    cookies = stage.raw(GET % (b"/cookies", b"") + GET % (b"/cookies", CLOSE))
    assert cookies.count(b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n") == 2
    assert b"Connection: x" not in cookies


@pytest.mark.parametrize("path", ["/fails", "/failslate", "/silent", "/twice", "/text"])
def test_a_program_that_fails(stage: Any, path: str) -> None:
    before = stage.log().count("Traceback")
    status, body, headers = stage.ask(path)
    assert (status, headers["connection"]) == (500, "close")
    assert b"its log says why" in body
    stage.until(lambda: stage.log().count("Traceback") > before)
    assert f"GET '{path}' failed:" in stage.log()
    assert stage.ask("/")[1] == b"Hello"


@pytest.mark.parametrize("path", [b"/breaks", b"/short", b"/toolate"])
def test_a_response_that_breaks_off_ends_its_connection(stage: Any, path: bytes) -> None:
    answer = stage.raw(GET % (path, b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert not answer.endswith(b"0\r\n\r\n")
    assert stage.ask("/")[1] == b"Hello"


def test_exc_info_and_what_is_too_much(stage: Any) -> None:
    assert stage.raw(GET % (b"/mended", CLOSE)).startswith(b"HTTP/1.1 503 Mended\r\n")
    assert stage.raw(GET % (b"/long", CLOSE)).endswith(b"\r\n\r\nfour")
    stage.until(lambda: "more bytes of body than its content-length says" in stage.log())


def test_close_is_always_called(stage: Any) -> None:
    for path in ("/closing?plain", "/file", "/slowclose", "/after"):
        assert stage.ask(path)[0] == 200
    with stage.connect() as sock:
        sock.sendall(GET % (b"/endless", b""))
        assert sock.recv(1000)
    want = {"plain", "file", "slow", "after", "endless"}
    stage.until(lambda: want <= set(json.loads(stage.ask("/closed")[1])))
    assert "ClientGone" not in stage.log()


def test_file_wrapper(stage: Any) -> None:
    assert stage.ask("/file")[1] == b"from a file"


def test_large_and_slow(stage: Any) -> None:
    """The client that reads slowly is waited for by no thread once the program is done."""
    with stage.connect() as slow:
        slow.sendall(GET % (b"/big?16000000", b"") + GET % (b"/", CLOSE))
        for _ in range(20):
            assert stage.ask("/")[1] == b"Hello"
        everything = stage.read_all(slow)
    assert len(everything) > 16_000_000 and everything.endswith(b"Hello")
    assert len(stage.ask("/large")[1]) == 16 << 20


def test_curl(stage: Any) -> None:
    url = f"http://127.0.0.1:{stage.door.port}"
    done = subprocess.run(
        ["curl", "-sS", "-m", "10", f"{url}/stream", f"{url}/", "-d", "x=1", f"{url}/echo"],
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert done.stdout.startswith(b"0,1,2,3,4,endHello3 ")


def test_everything_is_valid_by_the_library_of_the_specification(make_stage: Any) -> None:
    stage = make_stage(entry="app:checked")
    stage.start()
    for path in ("/", "/environ", "/bare", "/pieces", "/stream", "/late", "/closing", "/write", "/mended", "/file"):
        assert stage.ask(path)[0] in (200, 503), stage.log()
        assert stage.ask(path, "POST", b"some\nbody\n")[0] in (200, 503), stage.log()
        assert stage.ask(path, "HEAD")[0] in (200, 503), stage.log()
    assert stage.ask("/status?204%20None")[0] == 204
    stage.instances[0].drain()
    assert stage.instances[0].wait() == 0
    assert "Assertion" not in stage.log() and "Warning" not in stage.log(), stage.log()
