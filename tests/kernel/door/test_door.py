"""The door: heads, routes, conveyors, acknowledgements, failures. Real clients, real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import time

import pytest

from fildes.daemon.peer import Refused
from fildes.wire import conveyor
from fildes.wire import web as web_wire


def test_curl_reaches_a_program(door, kit):
    instance = door.instance("aaaa")
    url = f"http://127.0.0.1:{door.address[1]}/x?y=1"
    with subprocess.Popen(["curl", "-s", "-H", "Host: A.test.:80", url], stdout=subprocess.PIPE) as curl:
        connection = instance.serve_one(b"hello from a")
        out, _ = curl.communicate(timeout=kit.DEADLINE)
    assert out == b"hello from a"
    assert connection.head.startswith(b"GET /x?y=1 HTTP/1.1\r\n")
    host, port = connection.peer.split()
    assert host == b"127.0.0.1" and int(port) > 0
    assert connection.flags == 0
    instance.close()


def test_keep_alive_runs_without_the_door(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        connection, sock = instance.one()
        instance.take(connection.serial)
        instance.begin(connection.serial)
        sock.setblocking(True)
        with sock:
            for n in range(3):
                sock.sendall(kit.response(b"%d" % n, close=False))
                assert client.recv(4096).endswith(b"%d" % n)
                client.sendall(kit.get("a.test", f"/{n}"))
                assert sock.recv(4096) == kit.get("a.test", f"/{n}")
            kit.until(lambda: door.counted("aaaa").sent == 1)
            door.kill()  # an established connection is the instance's
            client.sendall(b"more")
            assert sock.recv(4096) == b"more"
    door.start()
    instance.close()


@pytest.mark.parametrize(
    ("pieces", "quick"),
    [
        ([b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"], 0),
        ([b"GET / HTTP/1.1\r\nHo", b"st: a.test\r\n\r\n"], 1),
        ([b"POST / HTTP/1.1\r\nHost: a.test\r\ncontent-length: 5\r\n\r\n"], 1),
        ([b"POST / HTTP/1.1\r\nHost: a.test\r\ntransfer-encoding: chunked\r\n\r\n"], 1),
    ],
)
def test_who_has_more_to_send_hears_at_once_that_it_came(door, kit, pieces, quick):
    """Else a client that sends in small pieces waits for the kernel's timer (RFC 1122 4.2.3.2)."""
    instance = door.instance("aaaa")
    with door.connect() as client:
        for more, piece in enumerate(pieces, 1):
            client.sendall(piece)
            if more < len(pieces):
                kit.until(lambda: door.counts().reading == 1)
        connection, sock = instance.one()
        assert connection.head == b"".join(pieces)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == quick
        sock.close()
    instance.close()


def test_pipelined_bytes_travel_along(door, kit):
    instance = door.instance("aaaa")
    two = kit.get("a.test", "/1") + kit.get("a.test", "/2")
    with door.connect() as client:
        client.sendall(two)
        connection, sock = instance.one()
        assert connection.head == two
        sock.close()
    instance.close()


def test_a_head_in_pieces(door, kit):
    instance = door.instance("aaaa")
    data = kit.get("a.test", "/pieces")
    with door.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(data[:1])
        kit.until(lambda: door.counts().reading == 1)
        for at in range(1, len(data)):
            client.sendall(data[at : at + 1])
        connection, sock = instance.one()
        assert connection.head == data
        assert not os.get_blocking(sock.fileno())
        sock.close()
    assert door.counts().reading == 0
    instance.close()


def test_a_large_head_and_one_too_large(door, kit):
    instance = door.instance("aaaa")
    large = kit.get("a.test", extra="".join(f"x-{n}: {'y' * 900}\r\n" for n in range(60)))
    with door.connect() as client:
        client.sendall(large)
        connection, sock = instance.one()
        assert connection.head == large
        sock.close()
    too_large = kit.get("a.test", extra="".join(f"x-{n}: {'y' * 900}\r\n" for n in range(90)))
    assert door.request(too_large).startswith(b"HTTP/1.1 431 ")
    instance.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: \xc3\xa4.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test:99999\r\n\r\n", 400),
        (b"GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a.test\n\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a.test\r\n\r\n", 505),
        (b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: a.test\r\n\r\n", 414),
    ],
)
def test_what_is_no_request_is_refused(door, data, status):
    answer = door.request(data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower() and body
    assert door.counts().bad_requests == 1


def test_an_unknown_host_gets_a_page_that_helps(door, kit):
    answer = door.request(kit.get("nobody.test"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"nobody.test" in answer and b"fildes ps" in answer
    head_only = door.request(kit.get("nobody.test", method="HEAD"))
    assert head_only.startswith(b"HTTP/1.1 404 ") and head_only.endswith(b"\r\n\r\n")
    assert door.counts().not_found == 2


def test_a_large_body_for_nobody_does_not_reset_the_answer(door, kit):
    with door.connect() as client:
        client.sendall(kit.get("nobody.test", method="POST", extra="Content-Length: 300000\r\n") + bytes(300_000))
        assert kit.read_all(client).startswith(b"HTTP/1.1 404 ")


@pytest.mark.slow
def test_a_slow_client_gets_408_and_costs_others_nothing(door, kit):
    instance = door.instance("aaaa")
    began = time.monotonic()
    slow = [door.connect() for _ in range(50)]
    try:
        for sock in slow:
            sock.sendall(b"G")
        kit.until(lambda: door.counts().reading == 50)
        trickle = iter(b"ET / HTTP/1.1\r\nHost: a.test\r\n" * 9)
        served = 0
        longest = 0.0
        while time.monotonic() - began < 9.5:
            for sock in slow[:5]:
                sock.sendall(bytes((next(trickle),)))
            start = time.monotonic()
            with door.connect() as client:
                client.sendall(kit.get("a.test"))
                instance.serve_one()
                assert kit.read_all(client).endswith(b"hello")
            longest = max(longest, time.monotonic() - start)
            served += 1
            kit.until(lambda start=start: time.monotonic() - start > 0.5)
        for sock in slow:
            assert kit.read_all(sock).startswith(b"HTTP/1.1 408 ")
        assert 9.5 < time.monotonic() - began < 20
        assert served > 10 and longest < 0.5
    finally:
        for sock in slow:
            sock.close()
    kit.until(lambda: door.counts().reading == 0)
    instance.close()


def test_routes_follow_the_catalogue(door, kit):
    assert door.request(kit.get("new.test")).startswith(b"HTTP/1.1 404 ")
    door.delta([kit.route("new.test", "dddd")])
    instance = door.instance("dddd")
    with door.connect() as client:
        client.sendall(kit.get("new.test"))
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    door.delta([], ["dddd"])
    kit.until(lambda: door.request(kit.get("new.test")).startswith(b"HTTP/1.1 404 "))
    instance.close()


def test_the_longest_prefix_wins_and_the_connection_is_marked(door, kit):
    door.delta([kit.route("a.test", "dddd", "/shop")])
    shop, site = door.instance("dddd"), door.instance("aaaa")
    for path, instance in [
        ("/shop", shop),
        ("/shop/x", shop),
        ("/%73hop?q", shop),
        ("/shopping", site),
        ("/", site),
    ]:
        with door.connect() as client:
            client.sendall(kit.get("a.test", path))
            connection = instance.serve_one()
            assert connection.flags == conveyor.ONCE
            assert kit.read_all(client).endswith(b"hello")
    shop.close()
    site.close()


def test_a_service_that_cannot_be_started_gets_503(door, kit):
    door.refuse["aaaa"] = Refused("halted", "it crashed too often")
    for _ in range(3):
        answer = door.request(kit.get("a.test"))
        assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in answer.lower()
        assert b"fildes logs service-aaaa" in answer
    assert door.fetched == ["aaaa"], "a refusal is believed for a second"
    del door.refuse["aaaa"]
    instance = door.instance("aaaa")

    def works() -> bool:
        with door.connect() as client:
            client.sendall(kit.get("a.test"))
            kit.until(lambda: instance.waits() or client in _readable(client))
            if instance.waits():
                instance.serve_one()
            return kit.read_all(client).endswith(b"hello")

    kit.until(works)
    instance.close()


def _readable(sock: socket.socket) -> list[socket.socket]:
    import select

    return select.select([sock], [], [], 0)[0]


def test_no_more_than_64_unacknowledged(door, kit):
    instance = door.instance("aaaa")
    clients = []
    try:
        for _ in range(80):
            client = door.connect()
            client.sendall(kit.get("a.test"))
            clients.append(client)
        kit.until(lambda: door.counted("aaaa").waiting == 16)
        got = []
        while len(got) < 64:
            got += instance.receive()
        assert not instance.waits()
        instance.take(*[connection.serial for connection, _ in got])
        while len(got) < 80:
            got += instance.receive()
        for connection, sock in got:
            instance.begin(connection.serial)
            with sock:
                sock.sendall(kit.response(b"ok"))
        for client in clients:
            assert kit.read_all(client).endswith(b"ok")
    finally:
        for client in clients:
            client.close()
    instance.close()


def test_beyond_the_backlog_503(door, kit):
    door.offer("aaaa")
    instance = door.instance("aaaa")
    kit.until(lambda: "conveyor.aaaa" in door.store.deposits)
    clients = []
    try:
        for _ in range(64 + 128 + 10):
            client = door.connect()
            client.sendall(kit.get("a.test"))
            clients.append(client)
        kit.until(lambda: door.counted("aaaa").refused == 10)
        refused = [client for client in clients if _readable(client)]
        assert len(refused) == 10
        for client in refused:
            answer = kit.read_all(client)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after" in answer
    finally:
        for client in clients:
            client.close()
    instance.close()


def test_a_program_that_dies_before_it_answers_gets_its_clients_502(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as taken, door.connect() as begun:
        taken.sendall(kit.get("a.test"))
        first, sock = instance.one()
        begun.sendall(kit.get("a.test"))
        second, sock2 = instance.one()
        instance.take(first.serial, second.serial)
        instance.begin(second.serial)
        sock2.setblocking(True)
        sock2.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
        sock.close()
        sock2.close()
        door.tell("web.died", web_wire.Died("aaaa", "i1", "killed by signal 9", os.getpid()))
        answer = kit.read_all(taken)
        assert answer.startswith(b"HTTP/1.1 502 ") and b"fildes logs service-aaaa" in answer
        assert kit.read_all(begun).endswith(b"begun")
    instance.close()


def test_another_instances_death_hurts_nobody(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        connection, sock = instance.one()
        instance.take(connection.serial)
        door.tell("web.died", web_wire.Died("aaaa", "i2", "killed", 1))
        door.counts()
        instance.begin(connection.serial)
        with sock:
            sock.sendall(kit.response(b"fine"))
        assert kit.read_all(client).endswith(b"fine")
    instance.close()


def test_one_that_dies_before_it_says_taken(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test", method="HEAD"))
        _, sock = instance.one()
        sock.close()
        door.tell("web.died", web_wire.Died("aaaa", "i1", "killed", os.getpid()))
        answer = kit.read_all(client)
        assert answer.startswith(b"HTTP/1.1 502 ") and answer.endswith(b"\r\n\r\n")
    with door.connect() as client:  # its credit came back
        client.sendall(kit.get("a.test"))
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    instance.close()


def test_what_waits_in_the_queue_survives_a_death(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        kit.until(instance.waits)
        door.tell("web.died", web_wire.Died("aaaa", "i1", "killed", os.getpid()))
        door.counts()
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    instance.close()


def test_a_vanished_conveyor_is_asked_for_again(door, kit):
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        kit.until(instance.waits)
        instance.close()
        door.forget("aaaa")
        kit.until(lambda: not any(k == "conveyor.aaaa" for k in door.store.deposits))
        assert kit.read_all(client).startswith(b"HTTP/1.1 503 ")
    instance = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    assert door.fetched == ["aaaa", "aaaa"]
    instance.close()


def test_a_retired_release_gets_nothing_and_its_clients_wait_for_the_next(door, kit):
    old = door.instance("aaaa")
    door.offer("aaaa", "service-aaaa")
    kit.until(lambda: "conveyor.aaaa" in door.store.deposits)
    door.tell("web.retired", web_wire.Retired("aaaa"))
    door.counts()
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        kit.until(lambda: door.counts().accepted == 1)
        assert not old.waits()
        door.delta([kit.route("a.test", "eeee")], ["aaaa"])
        new = door.instance("eeee")
        new.serve_one(b"from the new one")
        assert kit.read_all(client).endswith(b"from the new one")
    with door.connect() as client:  # and nobody comes: a second later it is told so
        door.tell("web.retired", web_wire.Retired("eeee"))
        door.counts()
        client.sendall(kit.get("a.test"))
        assert kit.read_all(client).startswith(b"HTTP/1.1 503 ")
    old.close()
    new.close()


def test_a_halted_service_says_where_the_reason_is(door, kit):
    door.offer("aaaa", "guestbook")
    kit.until(lambda: "conveyor.aaaa" in door.store.deposits)
    door.tell("web.retired", web_wire.Retired("aaaa", "guestbook: 5 crashes in 10 s"))
    door.counts()
    answer = door.request(kit.get("a.test"))
    assert answer.startswith(b"HTTP/1.1 503 ") and b"fildes logs" in answer
    door.offer("aaaa", "guestbook")
    instance = door.instance("aaaa")
    door.counts()
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    instance.close()
