"""The door as an operator sees it: addresses, a declared proxy, counted connections, the access log."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fildes.testing.node import Node

APP = """
async def app(scope, receive, send):
    told = {name.decode(): value.decode() for name, value in scope["headers"] if b"forwarded" in name}
    body = f"{scope['client'][0]} {scope['scheme']} {sorted(told.items())}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
WSGI = """
def app(environ, start_response):
    told = sorted(name for name in environ if "FORWARDED" in name)
    body = f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']} {told}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
Ask = Callable[..., bytes]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    arguments = ("--proxy", "127.0.0.2", "--client-connections", "3", "--access-log")
    with Node(http=(":0",), arguments=arguments) as node:
        for name, runtime, source in (("who", "asgi", APP), ("sync", "wsgi", WSGI)):
            folder: Path = tmp_path_factory.mktemp(name)
            (folder / "main.py").write_text(source)
            (folder / "fildes.toml").write_text(
                f'name = "{name}"\nruntime = "{runtime}"\nentry = "main:app"\nhosts = ["{name}.localhost"]\n'
                '[limits]\nconnections = 5\nbody = "1KiB"\n'
            )
            node.fildes("publish", str(folder))
        yield node


def connect(node: Node, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.addresses[0][1]), 10, (source, 0))


def ask(sock: socket.socket, host: str, extra: str = "") -> bytes:
    sock.sendall(f"GET /a?b HTTP/1.1\r\nHost: {host}.localhost\r\n{extra}\r\n".encode())
    data = sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < size:
        body += sock.recv(65536)
    return head.split(b" ")[1] + b" " + body


SPOOFED = (
    "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n"
)


@pytest.mark.parametrize("host", ["who", "sync"])
def test_only_a_declared_proxy_is_believed(node: Node, host: str) -> None:
    with connect(node, "127.0.0.9") as client:
        for _ in range(2):  # a later request of the same connection, which the door never sees, is no different
            assert ask(client, host, SPOOFED) == b"200 127.0.0.9 http []"
    with connect(node, "127.0.0.2") as proxy:
        for last in (b"192.0.2.1", b"2001:db8::1"):
            told = ask(proxy, host, f"X-Forwarded-For: 6.6.6.6, {last.decode()}\r\nX-Forwarded-Proto: https\r\n")
            assert told.startswith(b"200 " + last + b" https [") and b"6.6.6.6" not in told
            assert b"orwarded-for" in told or b"HTTP_X_FORWARDED_FOR" in told


@pytest.mark.parametrize("host", ["who", "sync"])
def test_connections_are_counted_while_they_are_open(node: Node, host: str) -> None:
    for n in range(40):  # none of these is left in the count
        admitted(node, "127.0.0.4", host, "Connection: close\r\n" if n % 2 else "").close()
    held = []
    try:
        for source in ("127.0.0.4", "127.0.0.4", "127.0.0.4", "127.0.0.5", "127.0.0.5"):
            held.append(admitted(node, source, host))
        with connect(node, "127.0.0.6") as client:
            assert ask(client, host).startswith(b"503 ")
        with connect(node, "127.0.0.4") as client:
            assert ask(client, host).startswith(b"429 ")
        held.pop().close()
        admitted(node, "127.0.0.6", host).close()
    finally:
        for client in held:
            client.close()


def admitted(node: Node, source: str, host: str, extra: str = "") -> socket.socket:
    """A connection that was answered. The door hears of an end a moment after the client has made it."""
    end = time.monotonic() + 10
    while True:
        client = connect(node, source)
        said = ask(client, host, extra)
        if said.startswith(b"200 "):
            return client
        client.close()
        assert said[:3] in (b"429", b"503") and time.monotonic() < end, said


def test_a_body_that_is_too_large(node: Node) -> None:
    with connect(node) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: who.localhost\r\nContent-Length: 2000\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_every_address_has_both_families_and_the_log_a_line(node: Node) -> None:
    port = node.addresses[0][1]
    with connect(node, "127.0.0.7") as client:
        assert ask(client, "who", 'User-Agent: a"b\r\n').startswith(b"200 ")
    if len(node.addresses) > 1:  # the machine has IPv6
        with socket.create_connection(("::1", port), 10) as client:
            assert ask(client, "who").startswith(b"200 ::1 ")
    with connect(node, "127.0.0.8") as client:
        assert ask(client, "nobody").startswith(b"404 ")
    log = node.fildes("logs", "who").stdout
    assert '127.0.0.7 "GET who.localhost/a?b HTTP/1.1" 200 ' in log and '"a\\x22b"' in log
    assert 'door: 127.0.0.8 "GET nobody.localhost/a?b HTTP/1.1" 404 ' in node.output()
