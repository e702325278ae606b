"""From the zygote to the end: lifespan, the loop's descriptors, draining, idleness, failures."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

import pytest

from fildes.kernel.libc import syscall

KCMP_FILE = 0  # linux/kcmp.h
GET = b"GET %b HTTP/1.1\r\nHost: a.example\r\n\r\n"


def test_startup_and_shutdown(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    assert stage.ask("/")[0] == 200
    instance.drain()
    assert instance.wait() == 0
    assert "shutting down" in stage.log()


@pytest.mark.parametrize(("how", "said"), [("fails", "no database"), ("raises", "no luck")])
def test_a_startup_that_fails(make_stage: Any, how: str, said: str) -> None:
    stage = make_stage({"STARTUP": how})
    sock = stage.connect()
    sock.sendall(GET % b"/")
    instance = stage.start()
    assert instance.wait() == 3
    assert said in stage.log()
    assert not stage.door.taken
    sock.close()


def test_a_program_without_lifespan(make_stage: Any) -> None:
    stage = make_stage(entry="app:http")
    instance = stage.start()
    assert stage.ask("/")[:2] == (200, b"Hello")
    assert json.loads(stage.ask("/scope")[1])["state"] == {}
    instance.drain()
    assert instance.wait() == 0
    assert stage.log() == ""


def test_idle(make_stage: Any) -> None:
    """It ends by itself, and what comes just then is for the next instance."""
    stage = make_stage(idle=0.2)
    instance = stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % b"/")
        assert sock.recv(1000).endswith(b"Hello")
    assert instance.said() == b"R"
    assert instance.said() == b"I"
    assert instance.wait() == 0
    with stage.connect() as sock:
        sock.sendall(GET % b"/")
        stage.until(lambda: stage.door.held)
        stage.start()
        assert sock.recv(1000).endswith(b"Hello")


def test_one_that_stands_by_stays(make_stage: Any) -> None:
    """It has answered one request before it says that it is ready, which the program never saw."""
    stage = make_stage(idle=0.2, stays=True)
    instance = stage.start()
    assert [instance.said() for _ in range(2)] == [b"R", b"Z"]
    for _ in range(2):
        assert stage.ask("/")[:2] == (200, b"Hello")
        assert instance.said() == b"Z"
    instance.drain()
    assert instance.wait() == 0


def test_it_says_that_it_is_full(make_stage: Any) -> None:
    stage = make_stage(concurrency=1)
    instance = stage.start()
    assert instance.said() == b"R"
    instance.ask_how()
    assert instance.said() == b"O"
    with stage.connect() as sock:
        sock.sendall(GET % b"/wait")
        stage.until(lambda: stage.door.taken)
        with stage.connect() as other:
            other.sendall(GET % b"/")
            assert instance.said() == b"F"
            instance.ask_how()
            assert instance.said() == b"F"
            second = stage.start()
            assert other.recv(1000).endswith(b"Hello")
            second.drain()
    assert second.wait() == 0


def test_not_idle_while_a_connection_is_open(make_stage: Any) -> None:
    stage = make_stage(idle=0.1, keep_alive=0.5)
    instance = stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % b"/")
        assert sock.recv(1000).endswith(b"Hello")
        sock.sendall(GET % b"/background")
        assert sock.recv(1000).endswith(b"begun")
        assert sock.recv(1000) == b""  # closed after keep_alive
    assert [instance.said(), instance.said()] == [b"R", b"I"]
    assert instance.wait() == 0
    assert "background done" in stage.log()


def test_drain_finishes_what_runs(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    idle, running, waiting = stage.connect(), stage.connect(), stage.connect()
    for sock, path in ((idle, b"/"), (running, b"/wait")):
        sock.sendall(GET % path)
    assert idle.recv(1000).endswith(b"Hello")
    stage.until(lambda: len(stage.door.taken) == 2)
    instance.drain()
    assert idle.recv(1000) == b""
    # It takes nothing new.
    waiting.sendall(GET % b"/")
    stage.until(lambda: len(stage.door.held) == 2)
    with stage.introduce("shop") as sock:
        sock.sendall(GET % b"/")
    other = stage.start()
    assert waiting.recv(1000).endswith(b"Hello")
    stage.until(lambda: len(stage.door.taken) == 3)
    running.close()  # the client gives up: nothing runs any more but the program, which nobody can wake
    other.drain()
    waiting.close()
    assert other.wait() == 0
    idle.close()


def test_drain_says_that_the_connection_closes(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    with stage.connect() as sock, stage.connect() as stream:
        stream.sendall(GET % b"/stream")
        sock.sendall(GET % b"/late")
        stage.until(lambda: len(stage.door.taken) == 2)
        instance.drain()
        answer = stage.read_all(sock)
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"late")
        assert stage.read_all(stream).endswith(b"0\r\n\r\n")
    assert instance.wait() == 0


def test_the_end_of_the_handle_is_the_end(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    assert stage.ask("/")[0] == 200
    instance.handle.close()
    assert instance.wait() == 0


def test_a_program_that_exits(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % b"/exits")
        assert instance.wait() == 7


def test_the_loop_of_each_instance_is_its_own(make_stage: Any) -> None:
    """No description of the zygote's loop is shared: neither with it nor between instances."""
    stage = make_stage()
    one, other = stage.start(), stage.start()
    pids = set()
    for _ in range(50):
        scope = json.loads(stage.ask("/scope")[1])
        pids.add(scope["pid"])
        assert scope["same loop"]
    assert stage.ask("/thread")[1] == b"42"
    zygote = stage.zygote.pid
    known = {0, 1, 2, stage.conveyor.fileno(), *stage.handle_numbers}
    shared = {number: kind for number, kind in one.fds().items() if number not in known and "null" not in kind}
    assert sum("eventpoll" in kind for kind in shared.values()) == 2
    for number, kind in shared.items():
        for pid in (other.pid, zygote):
            try:
                same = syscall("kcmp", one.pid, pid, KCMP_FILE, number, number) == 0
            except OSError:  # not open there
                continue
            assert not same, kind


def test_three_threads_of_wakeups(make_stage: Any) -> None:
    """call_soon_threadsafe goes through the eventfd or pipe that was replaced."""
    stage = make_stage()
    stage.start()
    stage.start()
    for _ in range(30):
        assert stage.ask("/thread")[1] == b"42"


def test_killed_with_what_it_has_not_taken_unharmed(make_stage: Any) -> None:
    stage = make_stage(concurrency=1)
    instance = stage.start()
    with stage.connect() as running, stage.connect() as waiting:
        running.sendall(GET % b"/wait")
        stage.until(lambda: stage.door.taken == [1])
        waiting.sendall(GET % b"/")
        stage.until(lambda: len(stage.door.held) == 2)
        os.kill(instance.pid, signal.SIGKILL)
        assert instance.wait() == -signal.SIGKILL
        stage.start()
        assert waiting.recv(1000).endswith(b"Hello")
        # The door still has the one that was taken, and can answer 502.
        stage.until(lambda: list(stage.door.held) == [1])


def test_slow_heads_on_a_kept_connection(make_stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(head_timeout=0.3)
    stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % b"/")
        assert sock.recv(1000).endswith(b"Hello")
        sock.sendall(b"GET / HTTP/1.1\r\nHos")
        assert stage.read_all(sock).startswith(b"HTTP/1.1 408 ")


def test_two_thousand_idle_connections(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    stage.ask("/")

    def resident() -> int:
        with open(f"/proc/{instance.pid}/smaps_rollup") as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty"))

    before = resident()
    socks: list[socket.socket] = []
    try:
        for _ in range(400):
            sock = stage.connect()
            socks.append(sock)
            sock.sendall(GET % b"/")
            assert sock.recv(1000).endswith(b"Hello")
        assert (resident() - before) / len(socks) < 2  # KiB each
    finally:
        for sock in socks:
            sock.close()
