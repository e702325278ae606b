"""What goes over the conveyor: batches, taken and done, hand-backs, limits, introduced streams, several instances."""

from __future__ import annotations

import json
import socket
from typing import Any

from fildes.kernel.fds import send_with_fds
from fildes.wire import conveyor

GET = b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n"


def read_response(sock: socket.socket) -> bytes:
    """One response with a Content-Length, and nothing of what comes behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += read(sock, 1)
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < size:
        body += read(sock, size - len(body))
    return body


def read(sock: socket.socket, most: int) -> bytes:
    data = sock.recv(most)
    assert data, "the end"
    return data


def test_taken_and_done_for_every_connection(make_stage: Any) -> None:
    stage = make_stage()
    stage.start()
    for path in ("/", "/late", "/stream", "/fails", "/disconnect"):
        with stage.connect() as sock:
            sock.sendall(GET % (path.encode(), b"a.example"))
            if path != "/disconnect":
                sock.recv(10)
    stage.until(lambda: sorted(stage.door.done) == [1, 2, 3, 4, 5])
    assert stage.door.taken == [1, 2, 3, 4, 5]
    assert not stage.door.held


def test_the_last_answer_brings_the_end_of_the_connection(stage: Any) -> None:
    """It does not wait until the door lets go of its copy."""
    stage.door.pause.set()
    try:
        data = stage.raw(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
        assert data.startswith(b"HTTP/1.1 200 ")
        assert stage.door.held
    finally:
        stage.door.pause.clear()
    stage.until(lambda: not stage.door.held)


def test_many_connections_in_one_message(stage: Any) -> None:
    stage.door.batch = conveyor.MAX_CONNECTIONS
    try:
        socks = [stage.connect() for _ in range(conveyor.MAX_CONNECTIONS)]
        for n, sock in enumerate(socks):
            sock.sendall(GET % (b"/scope?%d" % n, b"a.example"))
        for n, sock in enumerate(socks):
            scope = json.loads(read_response(sock))
            assert scope["query_string"] == str(n)
            assert scope["client"] == list(sock.getsockname())
            sock.close()
    finally:
        stage.door.batch = 1


def test_what_waited_in_the_conveyor_is_answered_first_thing(make_stage: Any) -> None:
    stage = make_stage()
    socks = [stage.connect() for _ in range(20)]
    for sock in socks:
        sock.sendall(GET % (b"/", b"a.example"))
    stage.until(lambda: len(stage.door.held) == 20)
    stage.start()
    for sock in socks:
        assert read_response(sock) == b"Hello"
        sock.close()


def test_a_request_for_another_host_goes_back_to_the_door(stage: Any) -> None:
    for path in (b"/", b"/late"):
        back = len(stage.door.back)
        with stage.connect() as sock:
            sock.sendall(GET % (path, b"a.example") + GET % (b"/x", b"b.example") + GET % (b"/y", b"a.example"))
            data = stage.read_all(sock)
        # The rest goes with it, also what would have been ours: the door reads on.
        assert len(stage.door.back) == back + 1
        assert stage.door.back[-1][1] == GET % (b"/x", b"b.example") + GET % (b"/y", b"a.example")
        assert data.count(b"200 OK") == 2
        assert data.endswith(b"door")
    with stage.connect() as sock:
        sock.sendall(GET % (b"/", b"a.example"))
        assert read_response(sock) == b"Hello"
        sock.sendall(GET % (b"/", b"A.Example:80"))
        assert read_response(sock) == b"Hello"
        sock.sendall(b"POST / HTTP/1.1\r\nHost: b.example\r\nContent-Length: 9\r\n\r\nbody")
        assert stage.read_all(sock).endswith(b"door")
        assert stage.door.back[-1][1].endswith(b"\r\n\r\nbody")


def test_prefixes(make_stage: Any) -> None:
    stage = make_stage(hosts=["a.example/shop", "a.example/shop/admin", "b.example"])
    stage.start()
    with stage.connect() as sock:
        for path, root in (
            (b"/shop/scope", "/shop"),
            (b"/shop/admin/scope", "/shop/admin"),
            (b"/shop%2fscope", "/shop"),
        ):
            sock.sendall(GET % (path, b"a.example"))
            scope = json.loads(read_response(sock))
            assert (scope["root_path"], scope["raw_path"]) == (root, path.decode())
        sock.sendall(GET % (b"/scope", b"b.example"))
        assert json.loads(read_response(sock))["root_path"] == ""
        sock.sendall(GET % (b"/shopping", b"a.example"))
        assert stage.read_all(sock).endswith(b"door")


def test_once(stage: Any) -> None:
    """A connection to a host that is shared by path returns to the door after each response, unnoticed."""
    stage.door.flags = conveyor.ONCE | conveyor.TLS
    try:
        back = len(stage.door.back)
        with stage.connect() as sock:
            for _ in range(3):
                sock.sendall(GET % (b"/scope", b"a.example"))
                assert json.loads(read_response(sock))["scheme"] == "https"
            sock.sendall(GET % (b"/late", b"a.example") + GET % (b"/", b"a.example"))
            assert read_response(sock) == b"late"
            assert read_response(sock) == b"Hello"
            stage.until(lambda: len(stage.door.back) == back + 5)
    finally:
        stage.door.flags = 0


def test_limit(make_stage: Any) -> None:
    """Beyond `concurrency` what comes stays in the conveyor, for other instances."""
    stage = make_stage(concurrency=2)
    stage.start()
    waiting = stage.connect()
    waiting.sendall(GET % (b"/wait", b"a.example"))
    stage.until(lambda: len(stage.door.taken) == 1)
    other = stage.connect()
    other.sendall(GET % (b"/disconnect", b"a.example"))
    stage.until(lambda: len(stage.door.taken) == 2)
    third = stage.connect()
    third.sendall(GET % (b"/go", b"a.example"))
    stage.until(lambda: len(stage.door.held) == 3)
    other.close()
    # There is room again: the third is taken, and lets the first go on.
    assert read_response(third) == b"go"
    assert read_response(waiting) == b"gone on"
    stage.until(lambda: stage.door.taken == [1, 2, 3])
    waiting.close()
    third.close()


def test_limit_of_one_with_many_clients(make_stage: Any) -> None:
    stage = make_stage(concurrency=1)
    stage.door.batch = 5
    stage.start()
    socks = [stage.connect() for _ in range(10)]
    for n, sock in enumerate(socks):
        sock.sendall(GET % (b"/late" if n % 2 else b"/", b"a.example"))
    for n, sock in enumerate(socks):
        assert read_response(sock) == (b"late" if n % 2 else b"Hello")
        sock.sendall(GET % (b"/thread", b"a.example"))
    for sock in socks:
        assert read_response(sock) == b"42"
        sock.close()


def test_other_instances_take_what_one_has_no_room_for(make_stage: Any) -> None:
    stage = make_stage(concurrency=1)
    stage.start()
    stage.start()
    pids = set()
    with stage.connect() as waiting:
        waiting.sendall(GET % (b"/wait", b"a.example"))
        stage.until(lambda: len(stage.door.taken) == 1)
        for _ in range(10):
            pids.add(json.loads(stage.ask("/scope")[1])["pid"])
    assert len(pids) == 1


def test_introduced_streams(stage: Any) -> None:
    with stage.introduce("shop") as sock:
        for host in (b"guestbook", b"anything"):
            sock.sendall(GET % (b"/scope", host))
            assert json.loads(read_response(sock))["client"] == ["service:shop", 0]
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc")
        assert stage.read_all(sock).endswith(b"abc")


def test_a_door_that_does_not_listen_for_a_while(stage: Any) -> None:
    """Its queue is full: connections are answered all the same, and it is told afterwards."""
    done = len(stage.door.done)
    stage.door.pause.set()
    try:
        for _ in range(400):
            with stage.connect() as sock:
                sock.sendall(GET % (b"/", b"a.example"))
                assert sock.recv(100)
    finally:
        stage.door.pause.clear()
    stage.until(lambda: len(stage.door.done) == done + 400)
    assert sorted(stage.door.taken) == list(range(1, stage.door._serial + 1))
    assert not stage.door.held


def test_messages_that_make_no_sense_are_dropped(stage: Any) -> None:
    ours, theirs = socket.socketpair()
    before = stage.instances[0].fds()
    for data, fds in ((b"nonsense", [theirs.fileno()]), (b"C\x02", [theirs.fileno()]), (b"I\x09abc", [])):
        send_with_fds(stage.door.end.fileno(), data, fds)
    theirs.close()
    ours.settimeout(5)
    assert ours.recv(1) == b""  # the instance has closed it
    ours.close()
    assert stage.ask("/")[0] == 200
    stage.until(lambda: stage.instances[0].fds() == before)
    assert "dropped a conveyor message" in stage.log()


def test_idle_connections_make_room(make_stage: Any) -> None:
    """At half of RLIMIT_NOFILE the longest-kept idle ones go, and nothing that comes is lost."""
    stage = make_stage(room=40)
    stage.start()
    socks = []
    for _ in range(120):
        socks.append(stage.connect())
        socks[-1].sendall(GET % (b"/", b"a.example"))
        assert read_response(socks[-1]) == b"Hello"
    assert socks[0].recv(10) == b""
    socks[-1].sendall(GET % (b"/", b"a.example"))
    assert read_response(socks[-1]) == b"Hello"
    for sock in socks:
        sock.close()


def test_slow_bodies_give_way_when_places_are_short(make_stage: Any) -> None:
    """Those that wait for their clients lend their places, four times as many as there are; then they are too many."""
    stage = make_stage(concurrency=2, body_patience=0.3, timeout=0.4)
    stage.start()
    slow = [stage.connect() for _ in range(10)]
    for n, sock in enumerate(slow):
        sock.sendall(b"POST /count HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\nx")
        stage.until(lambda n=n: len(stage.door.taken) == n + 1 + min(n, 8))
        if n < 8:
            assert stage.ask("/")[1] == b"Hello"
    with stage.connect() as sock:
        sock.sendall(GET % (b"/", b"a.example"))
        for one in slow:
            one.sendall(b"y")
        assert read_response(sock) == b"Hello"
    assert stage.read_all(slow[0]).startswith(b"HTTP/1.1 408 ")
    for one in slow:
        one.close()
