"""Strange, slow and greedy clients, over real sockets: against the door, against an instance that owns the connection,
and against the static daemon."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fildes.testing import Node, eventually, write_program
from fildes.testing.oddities import BAD

HEAD_SECONDS = 10.0  # that a client has for a head, at the door and behind it

PROGRAM = """
import os, time

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(256):
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await answer(send, os.getpid() if scope["path"] == "/pid" else "ok")
"""

WSGI = """
import os


def app(environ, start_response):
    if environ["PATH_INFO"] == "/large":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (bytes(1 << 16) for _ in range(256))
    body = str(os.getpid()).encode() if environ["PATH_INFO"] == "/pid" else b"ok"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

FUNCTION = """
import os


def app(request):
    if request.path == "/large":
        return (bytes(1 << 16) for _ in range(256))
    return str(os.getpid()) if request.path == "/pid" else "ok"
"""

PROGRAMS = ["plain", "threads", "function"]  # of the runtimes asgi, wsgi, function


@pytest.fixture(scope="module")
def served(house: Node, tmp_path_factory: pytest.TempPathFactory) -> Node:
    above = tmp_path_factory.mktemp("http")
    house.fildes("publish", str(write_program(above, "plain", PROGRAM, '[limits]\nmemory = "96MiB"\n')))
    limits = '[limits]\nmemory = "96MiB"\ntasks = 48\n'
    for name, runtime, source in (("threads", "wsgi", WSGI), ("function", "function", FUNCTION)):
        folder = above / name
        folder.mkdir()
        (folder / "main.py").write_text(source)
        lines = f'name = "{name}"\nruntime = "{runtime}"\nentry = "main:app"\nhosts = ["{name}.localhost"]\n'
        (folder / "fildes.toml").write_text(lines + limits)
        house.fildes("publish", str(folder))
    pages = above / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("ok")
    house.fildes("publish", str(pages), "--name", "pages")
    return house


@contextlib.contextmanager
def connect(node: Node, *, kept_by: str = "", small: bool = False) -> Iterator[socket.socket]:
    """A connection; with `kept_by` one that has been answered once by that service, which owns it since."""
    sock = socket.socket()
    with sock:
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(node.addresses[0])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kept_by:
            sock.sendall(request(kept_by))
            assert receive(sock).endswith(b"\r\n\r\nok")
        yield sock


def request(service: str, path: str = "/", *lines: str, method: str = "GET") -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"Host: {service}.localhost", *lines))
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode()


def receive(sock: socket.socket) -> bytes:
    """One short response."""
    data = b""
    while not data.endswith(b"ok"):
        piece = sock.recv(65536)
        if not piece:
            break
        data += piece
    return data


def everything(sock: socket.socket) -> bytes:
    """Until the other side has closed."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    return data


def well(node: Node) -> bool:
    return all(node.request("/", host=f"{name}.localhost").body == b"ok" for name in (*PROGRAMS, "pages"))


def descriptors(node: Node) -> dict[str, int]:
    """How many each daemon has open."""
    return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in sorted(node.daemons().items())}


def more_than(before: dict[str, int], node: Node) -> dict[str, int]:
    """How many more each has open than `before`. Fewer is no leak: instances of other tests end when they are idle."""
    return {name: now - before[name] for name, now in descriptors(node).items() if now > before[name]}


def settled(condition: Callable[[], object], timeout: float = 15) -> None:
    """Until `condition()` is empty, which is shown if it does not come to that."""
    deadline = time.monotonic() + timeout
    while condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not condition()


@pytest.mark.parametrize("kept_by", ["", *PROGRAMS, "pages"])
def test_every_oddity_is_refused_and_the_connection_ends(served: Node, kept_by: str) -> None:
    wrong = {}
    for name, (data, status) in BAD.items():
        with connect(served, kept_by=kept_by) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
            answer = everything(sock)
        # Refused at the first byte that nothing can mend, so perhaps for another reason.
        if (
            answer[:13] not in (b"HTTP/1.1 %d " % status, b"HTTP/1.1 400 ")
            or len(re.findall(rb"HTTP/1.1 \d", answer)) != 1
        ):
            wrong[name] = (status, answer[:200])
    assert wrong == {}
    assert well(served)


@pytest.mark.parametrize("kept_by", ["", *PROGRAMS])
@pytest.mark.parametrize(
    "body", [b"x\r\n", b"5;\x00\r\nhello\r\n", b"-1\r\n", b"0x5\r\nhello\r\n", b"5\r\nhello!\r\n", b"f" * 17 + b"\r\n"]
)
def test_broken_chunks(served: Node, kept_by: str, body: bytes) -> None:
    """The program does not read them: whatever it answers, what comes behind is not taken for a request."""
    with connect(served, kept_by=kept_by) as sock:
        service = kept_by or "plain"
        sock.sendall(request(service, "/", "Transfer-Encoding: chunked", method="POST") + body + request(service))
        answer = everything(sock)
    assert answer.count(b"HTTP/1.1 200") <= 1
    assert well(served)


@pytest.mark.parametrize("service", PROGRAMS)
def test_a_request_smuggled_in_a_body_stays_a_body(served: Node, service: str) -> None:
    inner = request(service, "/pid")
    with connect(served) as sock:
        sock.sendall(request(service, "/", f"Content-Length: {len(inner)}", "Connection: close", method="POST") + inner)
        assert everything(sock).count(b"HTTP/1.1") == 1


def test_a_byte_a_second(served: Node) -> None:
    """408 when the time for a head is up, at the door and behind it; nobody else waits for that."""
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(connect(served, kept_by=kept)) for kept in ("", *PROGRAMS, "pages") for _ in range(12)
        ]
        data = request("plain", "/slow", "X: " + "y" * 100)
        ended: dict[int, tuple[bytes, float]] = {}
        began = time.monotonic()
        sent = 0
        while len(ended) < len(slow) and time.monotonic() - began < HEAD_SECONDS + 10:
            if time.monotonic() - began >= sent:
                for sock in slow:
                    if sock.fileno() not in ended:
                        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                            sock.send(data[sent : sent + 1])
                sent += 1
            start = time.monotonic()
            assert well(served)
            assert time.monotonic() - start < 5
            for sock in select.select([s for s in slow if s.fileno() not in ended], [], [], 0.1)[0]:
                with contextlib.suppress(ConnectionResetError):
                    ended[sock.fileno()] = sock.recv(4096)[:13], time.monotonic() - began
        assert len(ended) == len(slow)
        assert Counter(answer for answer, _ in ended.values()) == {b"HTTP/1.1 408 ": 60}
        assert max(when for _, when in ended.values()) < HEAD_SECONDS + 8


@pytest.mark.parametrize("service", PROGRAMS)
def test_clients_that_do_not_read(served: Node, service: str) -> None:
    """16 MiB each, of which nobody takes more than a window: the program waits for them, and its memory does not."""
    host = f"{service}.localhost"
    with contextlib.ExitStack() as stack:
        for _ in range(24):
            stack.enter_context(connect(served, small=True)).sendall(request(service, "/large"))
        pid = int(served.request("/pid", host=host).body)
        for _ in range(50):
            start = time.monotonic()
            assert well(served)
            assert time.monotonic() - start < 5
        assert int(served.request("/pid", host=host).body) == pid
        assert len(served.request("/large", host=host).body) == 16 << 20


def test_clients_that_hang_up_anywhere(served: Node) -> None:
    before = descriptors(served)
    for kept_by in ("", *PROGRAMS):
        data = request(kept_by or "plain", "/", "Content-Length: 10", method="POST") + b"0123456789"
        for cut in range(0, len(data), 3):
            with connect(served, kept_by=kept_by) as sock:
                sock.sendall(data[:cut])
    assert well(served)
    settled(lambda: more_than(before, served))


def test_ten_thousand_requests_leave_no_descriptor(served: Node, tmp_path: Path) -> None:
    """One connection each; the door's, the instance's and everybody else's descriptors are as many as before."""
    assert well(served)
    pid = served.request("/pid", host="plain.localhost").body.decode()
    [instance] = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and _pid_inside(entry.name) == pid and _is_of(entry.name, served)
    ][:1]
    before, own = descriptors(served), len(os.listdir(f"/proc/{instance}/fd"))
    kinds = [
        (request("plain", "/", "Connection: close"), b"HTTP/1.1 200"),
        (request("pages", "/", "Connection: close"), b"HTTP/1.1 200"),
        (request("nobody"), b"HTTP/1.1 404"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (request("plain") + request("pages") + request("plain", "/", "Connection: close"), b"HTTP/1.1 200"),
    ]  # the last one is handed back and on
    began = time.monotonic()
    for n in range(10_000):
        data, answer = kinds[n % len(kinds)]
        with socket.create_connection(served.addresses[0], 10) as sock:
            sock.sendall(data)
            assert sock.recv(65536).startswith(answer)
        if time.monotonic() - began > 25:  # on a machine that is busy
            break
    assert n > 2000
    settled(lambda: more_than(before, served))
    settled(lambda: max(0, len(os.listdir(f"/proc/{instance}/fd")) - own))


def _pid_inside(pid: str) -> str:
    """Its number in its innermost PID namespace."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1]
    return ""


def _is_of(pid: str, node: Node) -> bool:
    """Is its grandparent, or who stands above that, the node's init?"""
    at = int(pid)
    while at > 1:
        if at == node.init:
            return True
        with contextlib.suppress(OSError, IndexError):
            at = int(Path(f"/proc/{at}/stat").read_text().rpartition(")")[2].split()[1])
            continue
        return False
    return False


def test_publishing_and_removing_leave_no_descriptor(served: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "fleeting", "", "[grants.clock]\n[grants.random]\n")

    def round_trip() -> None:
        served.fildes("publish", str(folder))
        assert served.request("/", host="fleeting.localhost").body == b"ok"
        served.fildes("rm", "fleeting")

    round_trip()  # whatever is opened once is opened
    eventually(lambda: "fleeting" not in str(list((served.state / "log").iterdir())), 5)
    before = descriptors(served)
    for _ in range(4):
        round_trip()
    settled(lambda: more_than(before, served))
