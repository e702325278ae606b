"""The conveyor, and the ends of an instance."""

from __future__ import annotations

import json
import socket
from typing import Any

from fildes.kernel.fds import send_with_fds
from fildes.wire import conveyor

GET = b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n"


def read_response(sock: socket.socket) -> bytes:
    """One response with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < size:
        body += sock.recv(65536)
    assert len(body) == size
    return body


def test_taken_and_done_for_every_connection(make_stage: Any) -> None:
    stage = make_stage()
    stage.start()
    for path in (b"/", b"/late", b"/stream", b"/fails", b"/slowly", b"/breaks"):
        with stage.connect() as sock:
            sock.sendall(GET % (path, b"a.example"))
            sock.recv(10)
    stage.until(lambda: sorted(stage.door.done) == [1, 2, 3, 4, 5, 6])
    assert stage.door.taken == [1, 2, 3, 4, 5, 6]
    assert not stage.door.held


def test_the_door_is_told_when_a_stream_begins(stage: Any) -> None:
    done = len(stage.door.done)
    with stage.connect() as sock:
        sock.sendall(GET % (b"/endless", b"a.example"))
        stage.until(lambda: len(stage.door.done) == done + 1)


def test_many_connections_in_one_message(stage: Any) -> None:
    stage.door.batch = conveyor.MAX_CONNECTIONS
    try:
        socks = [stage.connect() for _ in range(conveyor.MAX_CONNECTIONS)]
        for n, sock in enumerate(socks):
            sock.sendall(GET % (b"/late" if n % 5 == 0 else b"/environ?%d" % n, b"a.example"))
        for n, sock in enumerate(socks):
            body = read_response(sock)
            assert body == b"late" or json.loads(body)["QUERY_STRING"] == str(n)
            sock.close()
    finally:
        stage.door.batch = 1


def test_what_waited_in_the_conveyor_is_answered_first_thing(make_stage: Any) -> None:
    stage = make_stage(concurrency=4)
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
        assert len(stage.door.back) == back + 1
        assert stage.door.back[-1][1] == GET % (b"/x", b"b.example") + GET % (b"/y", b"a.example")
        assert data.count(b"200 OK") == 2
        assert data.endswith(b"door")


def test_prefixes(make_stage: Any) -> None:
    stage = make_stage(hosts=["a.example/shop", "a.example/shop/admin", "b.example"])
    stage.start()
    with stage.connect() as sock:
        for path, root, rest in (
            (b"/shop/environ", "/shop", "/environ"),
            (b"/shop/admin/caf%c3%a9/environ", "/shop/admin", "/café/environ"),
            (b"/shop%2fenviron", "/shop", "/environ"),
        ):
            sock.sendall(GET % (path, b"a.example"))
            environ = json.loads(read_response(sock))
            assert environ["SCRIPT_NAME"] == root
            assert environ["PATH_INFO"].encode("latin-1").decode() == rest
        sock.sendall(GET % (b"/environ", b"b.example"))
        assert json.loads(read_response(sock))["SCRIPT_NAME"] == ""
        sock.sendall(GET % (b"/shopping", b"a.example"))
        assert stage.read_all(sock).endswith(b"door")


def test_once(stage: Any) -> None:
    """A connection to a host that is shared by path returns to the door after each response, unnoticed."""
    stage.door.flags = conveyor.ONCE | conveyor.TLS
    try:
        back = len(stage.door.back)
        with stage.connect() as sock:
            for _ in range(3):
                sock.sendall(GET % (b"/environ", b"a.example"))
                environ = json.loads(read_response(sock))
                assert (environ["wsgi.url_scheme"], environ["SERVER_PORT"]) == ("https", "443")
            sock.sendall(GET % (b"/late", b"a.example") + GET % (b"/", b"a.example"))
            data = b""
            while not data.endswith(b"Hello"):
                data += sock.recv(65536)
            assert data.count(b"200 OK") == 2
            stage.until(lambda: len(stage.door.back) == back + 5)
    finally:
        stage.door.flags = 0


def test_introduced_streams(stage: Any) -> None:
    with stage.introduce("shop") as sock:
        for host in (b"guestbook", b"anything"):
            sock.sendall(GET % (b"/environ", host))
            assert json.loads(read_response(sock))["REMOTE_ADDR"] == "service:shop"
        sock.sendall(b"POST /half HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc")
        assert stage.read_all(sock).endswith(b"abc")


def test_a_door_that_does_not_listen_for_a_while(stage: Any) -> None:
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


def test_slow_heads_and_kept_connections_end(make_stage: Any) -> None:
    stage = make_stage(head_timeout=0.5, keep_alive=0.5)
    stage.start()
    with stage.connect() as sock, stage.connect() as kept:
        for one in (sock, kept):
            one.sendall(GET % (b"/", b"a.example"))
            assert read_response(one) == b"Hello"
        sock.sendall(b"GET / HTTP/1.1\r\nHo")
        assert stage.read_all(sock).startswith(b"HTTP/1.1 408 ")
        assert kept.recv(1) == b""


def test_idle(make_stage: Any) -> None:
    """It ends by itself, and what comes just then is for the next instance."""
    stage = make_stage(idle=0.2)
    instance = stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % (b"/", b"a.example"))
        assert read_response(sock) == b"Hello"
    assert [instance.said(), instance.said()] == [b"R", b"I"]
    assert instance.wait() == 0
    with stage.connect() as sock:
        sock.sendall(GET % (b"/", b"a.example"))
        stage.start()
        assert read_response(sock) == b"Hello"
    assert stage.log() == ""


def test_drain(make_stage: Any) -> None:
    """Idle connections are closed, what runs is finished, nothing new is taken."""
    stage = make_stage()
    instance = stage.start()
    idle, busy = stage.connect(), stage.connect()
    idle.sendall(GET % (b"/", b"a.example"))
    assert read_response(idle) == b"Hello"
    busy.sendall(GET % (b"/wait", b"a.example"))
    stage.until(lambda: len(stage.door.taken) == 2)
    instance.drain()
    assert idle.recv(1) == b""
    late = stage.connect()
    late.sendall(GET % (b"/", b"a.example"))
    successor = stage.start()
    assert read_response(late) == b"Hello"
    late.close()
    # LET_GO is the successor's: the first one waits its ten seconds out, or is told the time.
    assert successor.pid != instance.pid
    busy.close()
    idle.close()


def test_drain_in_the_middle_of_answers(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    socks = [stage.connect() for _ in range(6)]
    for sock in socks:
        sock.sendall(GET % (b"/late", b"a.example"))
    stage.until(lambda: len(stage.door.taken) == 6)
    instance.drain()
    for sock in socks:
        answer = stage.read_all(sock)
        assert answer.endswith(b"late") and b"connection: close" in answer
        sock.close()
    assert instance.wait() == 0


def test_a_call_that_never_ends_does_not_hold_up_the_drain(make_stage: Any) -> None:
    stage = make_stage(drain=0.5)
    instance = stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % (b"/wait", b"a.example"))
        stage.until(lambda: len(stage.door.taken) == 1)
        instance.drain()
        assert instance.wait() == 0


def test_nobody_holds_the_handle(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    assert stage.ask("/")[0] == 200
    instance.handle.close()
    assert instance.wait() == 0


def test_a_program_that_exits(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % (b"/exit", b"a.example"))
        assert instance.wait() == 7
