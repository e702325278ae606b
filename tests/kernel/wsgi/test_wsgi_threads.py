"""Calls that take long, many at once, and what threads may rely on."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

GET = b"GET %b HTTP/1.1\r\nHost: a.example\r\n%b\r\n"


def together(stage: Any, path: str, count: int) -> list[tuple[int, bytes]]:
    answers: list[tuple[int, bytes]] = []

    def ask() -> None:
        answers.append(stage.ask(path)[:2])

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return answers


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_calls_run_at_once(stage: Any) -> None:
    """Each waits for the other three."""
    assert together(stage, "/meet", 4) == [(200, b"met")] * 4
    assert together(stage, "/meet", 8) == [(200, b"met")] * 8


def test_a_call_that_waits_or_computes_keeps_nobody_waiting(stage: Any) -> None:
    for path in ("/wait", "/spin"):
        with stage.connect() as sock:
            sock.sendall(GET % (path.encode(), b""))
            for _ in range(20):
                assert stage.ask("/")[1] == b"Hello"
            assert stage.ask("/letgo")[1] == b"done"
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
            # It is an ordinary connection afterwards.
            sock.sendall(GET % (b"/", b"Connection: close\r\n"))
            assert stage.read_all(sock).endswith(b"Hello")


def test_threads_keep_apart_what_is_theirs(stage: Any) -> None:
    assert together(stage, "/locals", 24) == [(200, b"ok")] * 24
    assert together(stage, "/thread", 4) == [(200, b"from a thread")] * 4


def test_quick_calls_need_one_thread_and_slow_ones_no_more_than_the_limit(make_stage: Any) -> None:
    stage = make_stage(concurrency=4)
    instance = stage.start()
    for _ in range(50):
        assert stage.ask("/")[0] == 200
    assert threads_of(instance.pid) <= 3  # a quick call may be taken for a slow one on a busy machine
    assert together(stage, "/late", 30) == [(200, b"late")] * 30
    assert threads_of(instance.pid) <= 1 + 1 + 4
    names = {json.loads(stage.ask("/environ")[1])["thread"] for _ in range(3)}
    assert all(name.startswith("request-") for name in names)


def test_tasks_are_a_limit_too(make_stage: Any) -> None:
    """Beside the program's own threads: a quarter of the tasks is left to them."""
    stage = make_stage(concurrency=64, tasks=8)
    instance = stage.start()
    assert together(stage, "/late", 24) == [(200, b"late")] * 24
    assert threads_of(instance.pid) <= 6


def test_no_thread_to_be_had(make_stage: Any) -> None:
    """The smallest limit: one request after the other, and the end is heard all the same."""
    stage = make_stage(concurrency=64, tasks=2)
    instance = stage.start()
    assert together(stage, "/late", 8) == [(200, b"late")] * 8
    assert threads_of(instance.pid) == 2
    instance.drain()
    assert instance.wait() == 0


def test_slow_requests_beyond_the_limit_wait_for_another_instance(make_stage: Any) -> None:
    stage = make_stage(concurrency=2)
    first = stage.start()
    waiting = [stage.connect() for _ in range(2)]
    for n, sock in enumerate(waiting):
        sock.sendall(GET % (b"/wait", b""))
        stage.until(lambda n=n: len(stage.door.taken) == n + 1)
    # Seen by its threads: both are in their calls.
    stage.until(lambda: threads_of(first.pid) == 4)
    third = stage.connect()
    third.sendall(GET % (b"/environ", b"Connection: close\r\n"))
    stage.until(lambda: len(stage.door.held) == 3)
    second = stage.start()
    environ = json.loads(stage.read_all(third).partition(b"\r\n\r\n")[2])
    assert environ["pid"] in (first.pid, second.pid)
    for sock in (*waiting, third):
        sock.close()


def test_a_program_that_calls_itself(stage: Any) -> None:
    """As many do by a URL of their own."""
    assert together(stage, "/meet", 12) == [(200, b"met")] * 12


def test_too_late_is_a_504(make_stage: Any) -> None:
    stage = make_stage(timeout=0.5)
    stage.start()
    with stage.connect() as sock:
        sock.sendall(GET % (b"/wait", b""))
        answer = stage.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"did not begin to answer in 0.5 s" in answer
    assert stage.ask("/letgo")[1] == b"done"
    assert stage.ask("/slowly")[1] == b"0.1.2."
    stage.until(lambda: sorted(stage.door.done) == sorted(stage.door.taken))
    assert "Traceback" not in stage.log()


def test_when_every_call_hangs_the_instance_ends(make_stage: Any) -> None:
    stage = make_stage(timeout=0.5, concurrency=2)
    instance = stage.start()
    socks = [stage.connect() for _ in range(2)]
    for sock in socks:
        sock.sendall(GET % (b"/wait", b""))
    for sock in socks:
        assert stage.read_all(sock).startswith(b"HTTP/1.1 504 ")
        sock.close()
    assert instance.wait() == 70
    assert "none of 2 requests at once was answered" in stage.log()


def test_clients_that_never_read_what_is_streamed(make_stage: Any) -> None:
    """They hold their threads for a while, and no longer."""
    stage = make_stage(concurrency=4)
    stage.start()
    socks = [socket.create_connection(("127.0.0.1", stage.door.port), timeout=30) for _ in range(3)]
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(GET % (b"/endless", b""))
    stage.until(lambda: len(stage.door.done) == 3)
    for _ in range(10):
        assert stage.ask("/")[1] == b"Hello"
    for sock in socks:
        sock.close()
    stage.until(lambda: stage.ask("/closed")[1].count(b"endless") == 3)


def test_an_idle_instance_does_not_wake_up(make_stage: Any) -> None:
    stage = make_stage()
    instance = stage.start()
    assert stage.ask("/")[0] == 200

    def switches() -> int:
        found = 0
        for task in Path(f"/proc/{instance.pid}/task").iterdir():
            text = (task / "status").read_text()
            found += sum(int(line.split()[1]) for line in text.splitlines() if "ctxt_switches" in line)
        return found

    last = -1

    def settled() -> bool:
        nonlocal last
        before, last = last, switches()
        threading.Event().wait(0.3)
        return before == last

    stage.until(settled)
