"""Hosts whose paths belong to several owners: the door keeps the connection and passes one request on."""

from __future__ import annotations

import resource
import socket

import pytest

from fildes.daemon.peer import Refused

CLOSE = "Connection: close\r\n"


@pytest.fixture
def shared(door, kit):
    """a.test is anna's, a.test/carl is carl's."""
    door.delta([kit.route("a.test", "cccc", "/carl", owner="carl")])
    anna, carl = door.instance("aaaa"), door.instance("cccc")
    kit.until(lambda: door.counts() is not None)
    yield anna, carl
    anna.close()
    carl.close()


def test_the_instance_sees_one_request_and_nothing_more(door, kit, shared):
    anna, carl = shared
    body = b"x" * 10
    post = kit.get(
        "a.test", "/carl/form", "POST", "Content-Length: 10\r\nConnection: close, Keep-Alive\r\nKeep-Alive: 9\r\n"
    )
    with door.connect() as client:
        client.sendall(post + body + kit.get("a.test", "/private", extra="Cookie: secret\r\n"))
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        sock.settimeout(kit.DEADLINE)
        seen = connection.head
        while not seen.endswith(body):
            seen += sock.recv(4096)
        head = seen.partition(b"\r\n\r\n")[0].lower()
        assert b"connection: close" in head and b"keep-alive" not in head
        client.sendall(kit.get("a.test", "/private", extra="Cookie: secret\r\n"))
        sock.sendall(kit.response(b"carl says", close=False))  # keep-alive, as a hostile one would
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(4096)
        sock.close()
        assert kit.read_all(client).endswith(b"carl says")
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/", extra=CLOSE))
        anna.serve_one(b"anna says")
        assert kit.read_all(client).endswith(b"anna says")
    kit.until(lambda: door.counts().reading == 0)


def test_a_chunked_body_goes_through(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/carl", "POST", "Transfer-Encoding: chunked\r\n" + CLOSE))
        connection, sock = carl.one()
        carl.take(connection.serial)
        for piece in (b"5\r\nhel", b"lo\r\n3;ext=1\r\nabc\r", b"\n0\r\nTrailer: x\r\n\r\n", kit.get("a.test", "/next")):
            client.sendall(piece)
        sock.settimeout(kit.DEADLINE)
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            seen += sock.recv(4096)
        from fildes.wire.http_body import Chunked

        reader = Chunked()
        assert reader.feed(seen) == b"helloabc" and reader.done and not reader.rest
        carl.begin(connection.serial)
        sock.sendall(kit.response(b"done"))
        sock.close()
        assert kit.read_all(client).endswith(b"done")


def test_a_large_body_and_a_large_answer(door, kit, shared):
    import threading

    _, carl = shared
    size = 5_000_000
    with door.connect() as client:
        post = kit.get("a.test", "/carl", "POST", f"Content-Length: {size}\r\n{CLOSE}")
        sender = threading.Thread(target=client.sendall, args=(post + bytes(size),))
        sender.start()
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        sock.settimeout(kit.DEADLINE)
        got = len(connection.head.partition(b"\r\n\r\n")[2])
        while got < size:
            got += len(sock.recv(1 << 20))
        sender.join()
        answerer = threading.Thread(target=lambda: (sock.sendall(kit.response(bytes(size))), sock.close()))
        answerer.start()
        answer = kit.read_all(client)
        answerer.join()
        assert answer.endswith(bytes(size))


def test_a_web_socket_goes_through_once_it_is_granted(door, kit, shared):
    _, carl = shared
    upgrade = kit.get("a.test", "/carl/ws", extra="Connection: Upgrade\r\nUpgrade: websocket\r\n")
    with door.connect() as client:
        client.sendall(upgrade + b"early")
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        sock.settimeout(kit.DEADLINE)
        assert b"upgrade: websocket" in connection.head.lower() and b"connection: upgrade" in connection.head.lower()
        assert not connection.head.endswith(b"early")
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        assert sock.recv(4096) == b"early"
        client.sendall(b"ping")
        assert sock.recv(4096) == b"ping"
        sock.sendall(b"pong")
        assert client.recv(4096) == b"pong"
        client.close()
        assert sock.recv(4096) == b""
        sock.close()


def test_an_upgrade_that_is_not_granted_gives_nothing_away(door, kit, shared):
    _, carl = shared
    upgrade = kit.get("a.test", "/carl/ws", extra="Connection: Upgrade\r\nUpgrade: websocket\r\n")
    with door.connect() as client:
        client.sendall(upgrade + kit.get("a.test", "/private"))
        connection, sock = carl.one()
        carl.take(connection.serial)
        sock.settimeout(kit.DEADLINE)
        sock.sendall(kit.response(b"no", close=False))
        assert client.recv(4096).endswith(b"no")
        client.sendall(kit.get("a.test", "/private"))
        assert sock.recv(4096) == b""
        sock.close()


def test_an_end_without_an_answer_is_502(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/carl", extra=CLOSE))
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        sock.close()
        assert kit.read_all(client).startswith(b"HTTP/1.1 502 ")


def test_handed_back_or_refused(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/carl", extra=CLOSE))
        connection, sock = carl.one()
        carl.hand_back(connection.serial, connection.head, sock)
        sock.close()
        assert kit.read_all(client).startswith(b"HTTP/1.1 421 ")
    assert not door.logged
    door.delta([kit.route("a.test", "ffff", "/f", owner="fred")])
    door.refuse["ffff"] = Refused("halted", "no")
    assert door.request(kit.get("a.test", "/f", extra=CLOSE)).startswith(b"HTTP/1.1 503 ")


def test_no_descriptor_stays(door, kit, shared):
    _, carl = shared

    def once() -> None:
        with door.connect() as client:
            client.sendall(kit.get("a.test", "/carl", extra=CLOSE))
            carl.serve_one()
            assert kit.read_all(client).endswith(b"hello")

    once()
    kit.until(lambda: door.counts().reading == 0)
    before = door.fd_count()
    for _ in range(200):
        once()
    kit.until(lambda: door.fd_count() <= before)


def test_one_connection_for_both_owners(door, kit, shared):
    anna, carl = shared
    with door.connect() as client:
        for _ in range(2):
            for path, instance, word in (("/carl", carl, b"carl"), ("/", anna, b"anna")):
                client.sendall(kit.get("a.test", path))
                instance.serve_one(word)
                assert client.recv(4096).endswith(word)


@pytest.mark.parametrize(("method", "version"), [("HEAD", "1.1"), ("GET", "1.0"), ("HEAD", "1.0")])
def test_heads_and_old_clients(door, kit, shared, method, version):
    _, carl = shared
    with door.connect() as client:
        client.sendall(f"{method} /carl HTTP/{version}\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode())
        assert carl.serve_one(b"" if method == "HEAD" else b"hello").head.startswith(
            f"{method} /carl HTTP/{version}".encode()
        )
        head, _, body = kit.read_all(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and body == (b"" if method == "HEAD" else b"hello")


def test_a_client_that_waits_for_100(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        extra = "Expect: 100-continue\r\nContent-Length: 4\r\n" + CLOSE
        client.sendall(kit.get("a.test", "/carl", "POST", extra))
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        assert b"expect: 100-continue" in connection.head.lower()
        sock.settimeout(kit.DEADLINE)
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert sock.recv(4096) == b"body"
        with sock:
            sock.sendall(kit.response(b"thanks"))
        assert kit.read_all(client).endswith(b"thanks")


def test_an_answer_before_the_body_is_complete(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/carl", "POST", "Content-Length: 1000000\r\n") + b"begun")
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        with sock:
            sock.sendall(kit.response(b"enough", close=False))
        got = kit.read_all(client)
        assert got.endswith(b"enough") and b"connection: close" in got


def test_a_client_that_goes_away_is_noticed_by_the_program(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/carl"))
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        sock.settimeout(kit.DEADLINE)
        client.close()
        assert sock.recv(4096) == b""
        sock.close()
    kit.until(lambda: door.counts().relayed == 0)


def test_a_response_that_is_cut_off_is_cut_off_for_the_client(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/carl"))
        connection, sock = carl.one()
        carl.take(connection.serial)
        carl.begin(connection.serial)
        with sock:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        assert kit.read_all(client).endswith(b"half")


def test_what_is_no_http_is_not_passed_on(door, kit, shared):
    _, carl = shared
    with door.connect() as client:
        client.sendall(kit.get("a.test", "/carl"))
        connection, sock = carl.one()
        carl.take(connection.serial)
        with sock:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
        assert kit.read_all(client).startswith(b"HTTP/1.1 502 ")


def test_clients_that_never_read(door, kit, shared):
    """As many as may be relayed, each with a response that it doesn't take: bounded memory, and others are served."""
    anna, carl = shared
    many = 1000
    before = rss(door.pid)
    clients, held = [], []
    try:
        for _ in range(many):
            client = door.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(kit.get("a.test", "/carl"))
            clients.append(client)
            connection, sock = carl.one()
            carl.take(connection.serial)
            carl.begin(connection.serial)
            sock.setblocking(False)
            sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(150_000))
            held.append(sock)
        assert door.counts().relayed == many
        assert rss(door.pid) - before < 48 << 20
        with door.connect() as client:
            client.sendall(kit.get("a.test", "/", extra=CLOSE))
            anna.serve_one(b"still here")
            assert kit.read_all(client).endswith(b"still here")
    finally:
        for sock in clients + held:
            sock.close()
    kit.until(lambda: door.counts().relayed == 0)


def test_error_pages_that_nobody_reads(door, kit):
    """Each is sent once, and its connection closed a little later: they make room for each other."""
    before = door.fd_count()
    clients = []
    try:
        for _ in range(2000):
            client = door.connect()
            client.sendall(kit.get("nowhere.test"))
            clients.append(client)
        kit.until(lambda: door.counts().not_found == 2000)
        assert door.fd_count() - before < 600
    finally:
        for client in clients:
            client.close()
    kit.until(lambda: door.fd_count() <= before)


def rss(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
