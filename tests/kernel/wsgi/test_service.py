"""The service runtime: how a main ends, how it is told to, and the streams that it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def start(make_stage: Any) -> Callable[..., Any]:
    def start(main: str, **settings: Any) -> Any:
        stage = make_stage(runtime="service", entry=f"functions:{main}", hosts=[], **settings)
        assert stage.loaded == "loaded 1", stage.log()
        stage.start()
        assert stage.instances[0].said() == b"R"
        if main in ("waits", "answers", "answers_async", "deaf"):
            stage.until(lambda: "waiting" in stage.log())
        return stage

    return start


@pytest.mark.parametrize(
    ("main", "status", "said"),
    [
        ("returns", 0, "done"),
        ("crashes", 1, "RuntimeError: it crashed"),
        ("exits", 5, ""),
        ("odd", 1, "main returned a str"),
    ],
)
def test_how_it_ends(start: Callable[..., Any], main: str, status: int, said: str) -> None:
    stage = start(main)
    assert stage.instances[0].wait() == status
    assert said in stage.log()


def test_told_to_stop(start: Callable[..., Any]) -> None:
    stage = start("waits")
    stage.instances[0].drain()
    assert stage.instances[0].wait() == 0, stage.log()
    assert "called back" in stage.log()
    assert "stopping True None" in stage.log()


@pytest.mark.parametrize("main", ["answers", "answers_async"])
def test_streams_from_other_services(start: Callable[..., Any], main: str) -> None:
    stage = start(main)
    for caller in ("shop", "anna/shop"):
        with stage.introduce(caller) as stream:
            stream.sendall(b"hi")
            assert stage.read_all(stream) == f"hello {caller}, hi".encode()
    stage.instances[0].drain()
    assert stage.instances[0].wait() == 0, stage.log()
    assert "Traceback" not in stage.log()
    if main == "answers_async":
        assert "called back in MainThread" in stage.log() and "over" in stage.log()


def test_what_came_before_it_was_started_is_not_lost(make_stage: Any) -> None:
    stage = make_stage(runtime="service", entry="functions:answers", hosts=[])
    with stage.introduce("shop") as stream:
        stream.sendall(b"early")
        stage.start()
        assert stage.read_all(stream) == b"hello shop, early"


def test_a_clients_connection_is_not_for_it(start: Callable[..., Any]) -> None:
    stage = start("answers")
    with stage.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        stage.until(lambda: stage.door.held)
        for one in list(stage.door.held.values()):
            one.close()
        stage.door.held.clear()
        assert stage.read_all(sock) == b""


@pytest.mark.parametrize("main", ["unaware", "unaware_async"])
def test_who_asks_for_nothing_is_interrupted(start: Callable[..., Any], main: str) -> None:
    stage = start(main, patience=0.1)
    stage.until(lambda: "unaware" in stage.log())
    stage.instances[0].drain()
    assert stage.instances[0].wait() == 0, stage.log()
    assert "Traceback" not in stage.log()
    assert main == "unaware" or "cancelled" in stage.log()


def test_who_does_not_listen_is_ended(start: Callable[..., Any]) -> None:
    stage = start("deaf", grace=0.2)
    stage.instances[0].drain()
    assert stage.instances[0].wait() == 1, stage.log()
    assert "main did not return in 0.2 s" in stage.log()


def test_nobody_holds_the_handle(start: Callable[..., Any]) -> None:
    stage = start("waits")
    stage.instances[0].handle.close()
    assert stage.instances[0].wait() == 0, stage.log()
