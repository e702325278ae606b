"""Few descriptors: limits that are chosen so that the door never runs out, and what happens if it does."""

from __future__ import annotations

import resource
import signal

import pytest


@pytest.fixture
def small(door):
    """A door that may hold 256 descriptors: 96 unacknowledged, 48 with incomplete heads."""
    door.kill()
    door.limit = 256
    door.start()
    assert door.store.ready.wait(10)
    return door


def test_who_is_slow_makes_room(small, kit):
    instance = small.instance("aaaa")
    slow = []
    try:
        for n in range(120):
            sock = small.connect()
            sock.sendall(b"G")
            slow.append(sock)
            kit.until(lambda n=n: small.counts().accepted == n + 1)
        assert small.counts().reading == 48
        for sock in slow[:72]:
            assert kit.read_all(sock).startswith(b"HTTP/1.1 408 ")
        with small.connect() as client:
            client.sendall(kit.get("a.test"))
            instance.serve_one()
            assert kit.read_all(client).endswith(b"hello")
        slow[-1].sendall(b"ET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        instance.serve_one()
        assert kit.read_all(slow[-1]).endswith(b"hello")
    finally:
        for sock in slow:
            sock.close()
    instance.close()


def test_two_slow_services_leave_room_for_a_third(small, kit):
    """The common budget is 96: 64 for the first, 32 for the second; the rest waits, until it is 503."""
    a, b = small.instance("aaaa"), small.instance("bbbb")
    small.offer("aaaa")
    small.offer("bbbb")
    kit.until(lambda: {"conveyor.aaaa", "conveyor.bbbb"} <= small.store.deposits.keys())
    clients = []

    def send(host, count):
        for _ in range(count):
            sock = small.connect()
            sock.sendall(kit.get(host))
            clients.append(sock)

    try:
        send("a.test", 64)
        kit.until(lambda: small.counted("aaaa").queued == 64)  # else some of b's may come before them
        send("b.test", 40)
        kit.until(lambda: small.counted("bbbb").waiting == 8)
        got = []
        while len(got) < 32:
            got += b.receive()
        assert not b.waits()
        held = []
        while len(held) < 64:
            held += a.receive()
        a.take(*[connection.serial for connection, _ in held])  # room for b in the common budget
        while len(got) < 40:
            got += b.receive()
        for connection, sock in got + held:
            (b if (connection, sock) in got else a).begin(connection.serial)
            with sock:
                sock.sendall(kit.response(b"ok"))
        for client in clients:
            assert kit.read_all(client).endswith(b"ok")
    finally:
        for client in clients:
            client.close()
    a.close()
    b.close()


def test_out_of_descriptors_in_spite_of_all(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        instance.serve_one()
        kit.read_all(client)
    resource.prlimit(door.pid, resource.RLIMIT_NOFILE, (door.fd_count() + 10,) * 2)
    many = []
    try:
        for _ in range(30):
            sock = door.connect()
            sock.sendall(b"G")
            many.append(sock)
        kit.until(lambda: door.counts().accepted > 20)  # the oldest make room
    finally:
        for sock in many:
            sock.close()
    kit.until(lambda: door.counts().reading == 0)
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    instance.close()


def test_told_to_make_way_it_finishes_the_heads_that_are_coming(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        kit.until(lambda: door.counts().reading == 1)
        door.process.send_signal(signal.SIGTERM)
        client.sendall(b"Host: a.test\r\n\r\n")
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
        assert door.process.wait(10) == 0
    door.start()
    instance.close()


def test_a_relayed_connection_can_be_handed_back_by_its_holder_only(door, kit):
    door.delta([kit.route("a.test", "cccc", "/carl", owner="carl")])
    carl, mallory = door.instance("cccc"), door.instance("bbbb")
    with door.connect() as client, door.connect() as other:
        client.sendall(kit.get("a.test", "/carl", extra="Connection: close\r\n"))
        connection, sock = carl.one()
        other.sendall(kit.get("b.test"))
        _, own = mallory.one()
        mallory.hand_back(connection.serial, kit.get("b.test"), own)
        own.close()
        assert mallory.serve_one().head == kit.get("b.test")
        carl.begin(connection.serial)
        with sock:
            sock.sendall(kit.response(b"mine"))
        assert kit.read_all(client).endswith(b"mine")
    carl.close()
    mallory.close()
