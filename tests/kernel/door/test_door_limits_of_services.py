"""What one service, one request and one client may have, each refused with its own status."""

from __future__ import annotations

from msgspec.structs import replace

SHARED = "/carl"


def limited(door, kit, **limits):
    """a.test/carl, carl's, beside anna's a.test: relayed; d.test: handed over. Both with these limits."""
    door.delta(
        [
            replace(kit.route("a.test", "cccc", SHARED, owner="carl"), **limits),
            replace(kit.route("d.test", "dddd"), **limits),
        ]
    )


def test_a_body_that_says_its_size_is_refused_before_it_is_sent(door, kit):
    limited(door, kit, body=10)
    for host, path in (("a.test", SHARED), ("d.test", "/")):
        got = door.request(kit.get(host, path, "POST", "Content-Length: 11\r\n"))
        assert got.startswith(b"HTTP/1.1 413 ") and b"10 bytes" in got
    assert not door.fetched


def test_a_body_that_does_not_say_it_is_cut_off(door, kit):
    limited(door, kit, body=10)
    carl = door.instance("cccc")
    with door.connect() as client:
        client.sendall(kit.get("a.test", SHARED, "POST", "Transfer-Encoding: chunked\r\n") + b"8\r\n12345678\r\n")
        connection, sock = carl.one()
        carl.take(connection.serial)
        client.sendall(b"8\r\n12345678\r\n")
        assert kit.read_all(client).startswith(b"HTTP/1.1 413 ")
        sock.close()
    carl.close()


def test_an_answer_that_does_not_begin_is_504_where_the_door_relays(door, kit):
    limited(door, kit, timeout=0.5)
    carl = door.instance("cccc")
    with door.connect() as client:
        client.sendall(kit.get("a.test", SHARED))
        connection, sock = carl.one()
        carl.take(connection.serial)
        got = kit.read_all(client)
        assert got.startswith(b"HTTP/1.1 504 ") and b"0.5 seconds" in got
        sock.close()
    carl.close()


def test_connections_of_a_service_are_counted_until_they_end(door, kit):
    limited(door, kit, connections=2)
    instance = door.instance("dddd")
    clients = []
    for _ in range(2):
        client = door.connect()
        client.sendall(kit.get("d.test"))
        connection, sock = instance.one()
        sock.sendall(kit.response(b"kept", close=False))
        instance.take(connection.serial)
        instance.keep(connection.serial)
        assert client.recv(4096).endswith(b"kept")
        clients.append((client, sock, connection.serial))
    kit.until(lambda: door.counted("dddd").open == 2 and door.counted("dddd").queued == 0)
    got = door.request(kit.get("d.test"))
    assert got.startswith(b"HTTP/1.1 503 ") and b"retry-after" in got.lower()
    instance.end(clients[0][2])
    kit.until(lambda: door.counted("dddd").open == 1)
    with door.connect() as client:
        client.sendall(kit.get("d.test"))
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    assert door.counted("dddd").open == 1, "what closes at once is not kept"
    instance.end(clients[1][2], clients[1][2], 77)
    kit.until(lambda: door.counted("dddd").open == 0)
    for client, sock, _ in clients:
        client.close()
        sock.close()
    instance.close()


def test_one_client_has_so_many_and_others_have_theirs(door, kit):
    door.again(client_connections=2, proxies=[["127.0.0.5", "x-forwarded"]])
    instance = door.instance("aaaa")
    held = []

    def ask(source):
        client = door.connect(source)
        client.sendall(kit.get("a.test"))
        held.append(client)
        return client

    for source in ("127.0.0.2", "127.0.0.2", "127.0.0.3", *["127.0.0.5"] * 4):
        ask(source)
        held.append(instance.one()[1])
    got = kit.read_all(ask("127.0.0.2"))
    assert got.startswith(b"HTTP/1.1 429 ") and b"retry-after" in got.lower()
    ask("127.0.0.3")
    held.append(instance.one()[1])
    for sock in held:
        sock.close()
    instance.close()


def test_heads_that_are_not_complete_count_too(door, kit):
    door.again(client_connections=2)
    held = [door.connect("127.0.0.2") for _ in range(2)]
    for sock in held:
        sock.sendall(b"GET / HT")
    kit.until(lambda: door.counts().reading == 2)
    with door.connect("127.0.0.2") as client:
        client.sendall(b"GET / HT")
        assert kit.read_all(client).startswith(b"HTTP/1.1 429 ")
    for sock in held:
        sock.close()
    kit.until(lambda: door.counts().reading == 0)
