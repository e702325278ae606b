"""Connections that come back, and what tenants might send instead. No descriptor from a tenant is believed."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

import pytest

from fildes.wire import conveyor

LINGER = struct.pack("ii", 1, 30)


def pair(kit, door, host="a.test", release="aaaa"):
    """A client's connection, as the release's instance has it, begun."""
    instance = door.instance(release)
    client = door.connect()
    client.sendall(kit.get(host))
    connection, sock = instance.one()
    instance.take(connection.serial)
    instance.begin(connection.serial)
    return instance, client, connection, sock


def test_one_connection_to_alternating_hosts(door, kit):
    a, client, connection, sock = pair(kit, door)
    b = door.instance("bbbb")
    peer = connection.peer
    try:
        for n in range(6):
            sock.sendall(kit.response(b"%d" % n, close=False))
            assert client.recv(4096).endswith(b"%d" % n)
            host, other, mine = ("b.test", b, a) if n % 2 == 0 else ("a.test", a, b)
            client.sendall(kit.get(host, f"/{n}"))
            sock.setblocking(True)
            head = sock.recv(4096)
            mine.hand_back(connection.serial, head, sock)
            sock.close()
            connection, sock = other.one()
            other.take(connection.serial)
            other.begin(connection.serial)
            assert connection.head == kit.get(host, f"/{n}")
            assert connection.peer == peer, "derived by the door itself"
    finally:
        client.close()
        sock.close()
        a.close()
        b.close()


def test_an_idle_connection_handed_back_waits_at_the_door(door, kit):
    a, client, connection, sock = pair(kit, door)
    sock.sendall(kit.response(b"1", close=False))
    client.recv(4096)
    a.hand_back(connection.serial, b"", sock)
    sock.close()
    kit.until(lambda: door.counts().reading == 1)
    client.sendall(kit.get("a.test", "/next"))
    connection = a.serve_one(b"again")
    assert connection.head == kit.get("a.test", "/next")
    assert kit.read_all(client).endswith(b"again")
    client.close()
    a.close()


def test_another_owners_host_is_not_for_a_connection_that_a_tenant_held(door, kit):
    a, client, connection, sock = pair(kit, door)
    c = door.instance("cccc")
    a.hand_back(connection.serial, kit.get("c.test"), sock)
    sock.close()
    assert kit.read_all(client).startswith(b"HTTP/1.1 421 ")
    assert not c.waits()
    client.close()
    a.close()
    c.close()


def test_a_program_that_hands_everything_back_meets_an_end(door, kit):
    a = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        for _ in range(3):
            connection, sock = a.one()
            a.hand_back(connection.serial, connection.head, sock)
            sock.close()
        answer = kit.read_all(client)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert not a.waits()
    a.close()


def hostile_pair() -> socket.socket:
    one, other = socket.socketpair()
    other.close()
    return one


def hostile_udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def hostile_listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def hostile_elsewhere() -> socket.socket:
    """A TCP connection that is real, lingering, and was not accepted by the door."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setblocking(False)
        try:
            while True:
                client.send(bytes(65536))
        except BlockingIOError:
            pass
        hostile_elsewhere.kept = accepted
        return client


@pytest.mark.parametrize("make", [hostile_pair, hostile_udp, hostile_listener, hostile_elsewhere])
def test_a_descriptor_of_the_tenants_own_costs_it_the_conveyor(door, kit, make):
    a, client, connection, sock = pair(kit, door)
    began = time.monotonic()
    with make() as own:
        a.hand_back(connection.serial, kit.get("b.test"), own)
    kit.until(lambda: door.logged)
    assert "none of the door's" in door.logged[0] and "aaaa" in door.logged[0]
    assert time.monotonic() - began < 2, "a lingering close held the door up"
    if kept := getattr(hostile_elsewhere, "kept", None):
        kept.close()
    b = door.instance("bbbb")
    with door.connect() as other:
        other.sendall(kit.get("b.test"))
        b.serve_one()
        assert kit.read_all(other).endswith(b"hello")
    sock.close()
    client.close()
    a.close()
    b.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"X",
        b"T",
        b"T123",
        b"D\0\0\0",
        b"B",
        b"B" + bytes(8),
        b"C\1" + bytes(30),
        b"T" + bytes(300_001),
        bytes(2000),
    ],
)
def test_what_is_none_of_the_protocol_costs_the_conveyor_and_nothing_else(door, kit, data):
    a, client, _, sock = pair(kit, door)
    a.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    a.say(data)
    kit.until(lambda: door.logged)
    with door.connect() as again:  # fetched anew at the next connection
        again.sendall(kit.get("a.test"))
        a.serve_one()
        assert kit.read_all(again).endswith(b"hello")
    with sock:  # what it holds it holds
        sock.sendall(kit.response(b"still mine"))
    assert kit.read_all(client).endswith(b"still mine")
    client.close()
    a.close()


def test_descriptors_where_none_belong_are_closed(door, kit):
    a, client, connection, sock = pair(kit, door)
    before = door.fd_count()
    readers = []
    for _ in range(3):
        r, w = os.pipe()
        readers.append(r)
        a.say(conveyor.encode_taken([connection.serial]), [w] * 200)
        os.close(w)
        kit.until(lambda: len(door.logged) == len(readers))
        with door.connect() as again:
            again.sendall(kit.get("a.test"))
            a.serve_one()
            kit.read_all(again)
    for r in readers:
        assert os.read(r, 1) == b"", "somebody still holds the other end"
        os.close(r)
    kit.until(lambda: door.fd_count() <= before + 1)
    sock.close()
    client.close()
    a.close()


def test_serials_of_others_change_nothing(door, kit):
    a = door.instance("aaaa")
    b = door.instance("bbbb")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        connection, sock = a.one()
        with door.connect() as other:
            other.sendall(kit.get("b.test"))
            b.serve_one()
        b.begin(connection.serial)  # acknowledges a's
        b.take(*range(100))
        door.counts()
        a.take(connection.serial)
        door.counts()
        sock.close()
        from fildes.wire import web as web_wire

        door.tell("web.died", web_wire.Died("aaaa", "i", "killed", os.getpid()))
        assert kit.read_all(client).startswith(b"HTTP/1.1 502 ")
    a.close()
    b.close()


def test_a_flipped_socket_is_set_right(door, kit):
    a, client, connection, sock = pair(kit, door)
    sock.setblocking(True)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100_000)
    a.hand_back(connection.serial, b"", sock)
    kit.until(lambda: door.counts().reading == 1)
    assert not os.get_blocking(sock.fileno())
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[:4] == bytes(4)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    sock.close()
    client.sendall(kit.get("a.test", "/after"))
    assert a.serve_one().head == kit.get("a.test", "/after")
    client.close()
    a.close()


def test_a_flood_of_junk_slows_its_sender_only(door, kit):
    a, client, _, sock = pair(kit, door)
    b = door.instance("bbbb")
    a.sock.setblocking(False)
    sent = 0
    junk = conveyor.encode_done(range(1, 200))
    end = time.monotonic() + 1.5
    longest = 0.0
    while time.monotonic() < end:
        for _ in range(200):
            try:
                a.say(junk)
                sent += 1
            except OSError as error:
                assert error.errno == errno.EAGAIN
                break
        start = time.monotonic()
        with door.connect() as other:
            other.sendall(kit.get("b.test"))
            b.serve_one()
            kit.read_all(other)
        longest = max(longest, time.monotonic() - start)
    assert longest < 0.25
    assert sent < 1500, "the door reads no more of it than its allowance"
    sock.close()
    client.close()
    a.close()
    b.close()
