"""Behind declared proxies: each request of their connections is routed for itself, and what they say of a client is
believed, of them only."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from fildes.web.proxy_header import SIGNATURE
from fildes.wire import conveyor

HTTP, NEW, TCP = "127.0.0.2", "127.0.0.3", "127.0.0.4"
SPOOFED = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n"


@pytest.fixture
def proxied(door):
    door.again(proxies=[[HTTP, "x-forwarded"], [NEW, "forwarded"], [TCP, "proxy-protocol"]])
    return door


@contextlib.contextmanager
def instances(door, *releases):
    made = [door.instance(release) for release in releases]
    try:
        yield made
    finally:
        for instance in made:
            instance.close()


def answer(client: socket.socket) -> bytes:
    """One response with a Content-Length, and nothing behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(4096)
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < size:
        body += client.recv(4096)
    assert len(body) == size
    return head + b"\r\n\r\n" + body


def test_one_pooled_connection_for_many_hosts_and_owners(proxied, kit):
    with instances(proxied, "aaaa", "cccc") as (a, c), proxied.connect(HTTP) as client:
        for _ in range(3):
            for host, instance in (("a.test", a), ("c.test", c)):
                client.sendall(kit.get(host, extra=f"X-Forwarded-For: 6.6.6.6, 192.0.2.{len(host)}\r\n"))
                seen = instance.serve_one(host.encode(), close=True)
                assert seen.peer == b"192.0.2.6 0" and seen.flags & conveyor.FORWARDED
                assert b"6.6.6.6" not in seen.head and b"connection: close" in seen.head.lower()
                got = answer(client)
                assert got.endswith(host.encode()) and b"close" not in got
    kit.until(lambda: proxied.counts().relayed == 0)


def test_requests_sent_ahead_go_each_to_its_own(proxied, kit):
    with instances(proxied, "aaaa", "cccc") as (a, c), proxied.connect(HTTP) as client:
        first = kit.get("a.test", "/one", "POST", "Content-Length: 4\r\n") + b"body"
        client.sendall(first + kit.get("c.test", "/two") + kit.get("a.test", "/three", extra="Connection: close\r\n"))
        for instance, target in ((a, b"/one"), (c, b"/two"), (a, b"/three")):
            connection, sock = instance.one()
            instance.take(connection.serial)
            instance.begin(connection.serial)
            seen = connection.head
            sock.settimeout(kit.DEADLINE)
            while target == b"/one" and not seen.endswith(b"body"):
                seen += sock.recv(100)
            assert target in seen and seen.count(b"HTTP/1.1") == 1
            with sock:
                sock.sendall(kit.response(target))
        everything = kit.read_all(client)
        assert [everything.count(target) for target in (b"/one", b"/two", b"/three")] == [1, 1, 1]


def test_a_tenant_cannot_answer_the_next_request_of_a_pooled_connection(proxied, kit):
    with instances(proxied, "aaaa", "cccc") as (a, c), proxied.connect(HTTP) as client:
        client.sendall(kit.get("c.test"))
        connection, sock = c.one()
        c.take(connection.serial)
        c.begin(connection.serial)
        with sock:
            sock.sendall(kit.response(b"mine", close=False) + kit.response(b"poison", close=False))
        assert answer(client).endswith(b"mine")
        client.sendall(kit.get("a.test"))
        a.serve_one(b"true")
        assert answer(client).endswith(b"true")


def test_what_a_proxy_says_reaches_the_program_once_and_in_every_form(proxied, kit):
    with instances(proxied, "aaaa") as (a,), proxied.connect(HTTP) as client:
        claims = "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\nX_Forwarded_For: 6.6.6.6\r\n"
        client.sendall(kit.get("a.test", extra=claims + "Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n"))
        seen = a.serve_one()
        assert seen.flags & conveyor.TLS and seen.peer == b"192.0.2.9 0"
        assert b"6.6.6.6" not in seen.head and seen.head.count(b"192.0.2.9") == 2
        assert b'Forwarded: for=192.0.2.9;proto=https;host="a.test"\r\n' in seen.head
        answer(client)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.9"])
def test_nobody_else_is_believed(proxied, kit, source):
    with instances(proxied, "aaaa") as (a,), proxied.connect(source) as client:
        client.sendall(kit.get("a.test", extra=SPOOFED))
        seen = a.serve_one()  # handed over as it came: the loop that reads it does not show such headers
        assert seen.peer.startswith(source.encode()) and not seen.flags & conveyor.FORWARDED
        kit.read_all(client)


def test_two_forwarded_headers_and_one_that_cannot_be_read(proxied, kit):
    with instances(proxied, "aaaa") as (a,):
        with proxied.connect(NEW) as client:
            client.sendall(
                kit.get("a.test", extra="Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.1;proto=https\r\n")
            )
            seen = a.serve_one()
            assert seen.peer == b"192.0.2.1 0" and seen.flags & conveyor.TLS
            answer(client)
        with proxied.connect(NEW) as client:
            client.sendall(kit.get("a.test", extra='Forwarded: for="6.6.6.6\r\n'))
            assert kit.read_all(client).startswith(b"HTTP/1.1 400 ")


def test_the_host_that_the_proxy_was_asked_for(proxied, kit):
    with instances(proxied, "aaaa", "bbbb") as (a, b), proxied.connect(HTTP) as client:
        client.sendall(kit.get("127.0.0.1:8080", extra="X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a.test\r\n"))
        assert b"Host: a.test\r\n" in a.serve_one().head
        answer(client)
        client.sendall(kit.get("b.test", extra="X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a.test\r\n"))
        assert b"Host: b.test\r\n" in b.serve_one().head, "a Host of ours decides"
        answer(client)


def header(version: int) -> bytes:
    if version == 1:
        return b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"
    block = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack(">HH", 4711, 443)
    return SIGNATURE + struct.pack(">BBH", 0x21, 0x11, len(block)) + block


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_the_proxy_protocol(proxied, kit, version, pieces):
    with instances(proxied, "aaaa") as (a,), proxied.connect(TCP) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = header(version) + kit.get("a.test", extra=SPOOFED)
        for at in range(len(data) if pieces == "bytes" else 1):
            client.sendall(data[at : at + 1] if pieces == "bytes" else data)
        for _ in range(2):  # it holds for every request of the connection
            seen = a.serve_one()
            assert seen.peer == b"192.0.2.7 4711" and b"6.6.6.6" not in seen.head
            answer(client)
            client.sendall(kit.get("a.test", extra=SPOOFED))
        a.serve_one()
        answer(client)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"PROXY TCP4 nonsense\r\n", header(1) * 2])
def test_a_proxy_that_sends_no_header_or_a_wrong_one(proxied, kit, data):
    with proxied.connect(TCP) as client:
        client.sendall(data)
        assert kit.read_all(client).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("source", ["127.0.0.1", HTTP])
def test_a_proxy_header_from_somebody_undeclared(proxied, kit, version, source):
    with proxied.connect(source) as client:
        client.sendall(header(version) + kit.get("a.test"))
        got = kit.read_all(client)
        assert got.startswith(b"HTTP/1.1 400 ") and (version == 2 or b"=proxy-protocol" in got)


def test_a_program_that_never_answers_leaves_room_for_others(door, kit):
    door.limit = 256  # descriptors: 16 relays
    door.again(proxies=[[HTTP, "x-forwarded"]])
    with contextlib.ExitStack() as stack:
        _, c = stack.enter_context(instances(door, "aaaa", "cccc"))
        for _ in range(20):
            client = stack.enter_context(door.connect(HTTP))
            client.sendall(kit.get("a.test"))
        kit.until(lambda: door.counts().relayed >= 12)
        with door.connect(HTTP) as client:
            client.sendall(kit.get("c.test"))
            c.serve_one(b"served")
            assert answer(client).endswith(b"served")
