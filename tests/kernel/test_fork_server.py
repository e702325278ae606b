"""shim/fork.c by its Python side: what it does with each kind of message, and what an instance has of its own."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.kernel.fds import receive_with_fds, send_with_fds
from fildes.wire import zygote as wire
from fildes.zygote import forking

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] not in forking._VERSIONS, reason="an interpreter whose forks are plain ones"
)

ZYGOTE = """
import os, sys
from fildes.zygote import forking
forking.record()
from fildes.runtime import trap
trap.load()
import asyncio, json
from fildes.kernel import process, seccomp
from fildes.runtime.renew import Holdings, open_numbers
from fildes.zygote import server

process.set_no_new_privs()
before = open_numbers()
loop = asyncio.new_event_loop()
holdings = Holdings.since(before)
assert server.usable()
filter = seccomp.assemble({}, seccomp.RET_ALLOW)
extra = os.open("/dev/null", os.O_RDONLY)
waiting = server.Server(3, [extra], filter, holdings)
print("ready", flush=True)
names = {0: "instance", 1: "message", 2: "ended", 4: "interrupted"}
while (kind := waiting.next()) != server.OVER:
    order = waiting.order
    said = {"kind": names[kind], "fds": waiting.descriptors()}
    if kind == server.INSTANCE:
        said["numbers"] = [order.conveyor, order.handle, order.channel]
        said["locked"] = order.locked
        said["open"] = sorted(open_numbers())
        said["loop"] = loop.run_until_complete(asyncio.sleep(0.01, "it turns"))
    if kind != server.ENDED:
        said["message"] = waiting.message().decode()
    else:
        said["status"] = os.waitstatus_to_exitcode(order.status)
    print(json.dumps(said), flush=True)
    if kind == server.INSTANCE:
        if order.conveyor < 0:
            ahead = waiting.conveyor(order.handle)
            print(json.dumps({"ahead": ahead, "open": sorted(open_numbers())}), flush=True)
        os._exit(7)
    if kind == server.MESSAGE and os.fork() == 0:
        os._exit(9)
print("over", flush=True)
os._exit(0)
"""


class Stage:
    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(10)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _at_3(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(forking.__file__).parents[2])},
            )

    def line(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 10)[0], "it says nothing"
        return self.process.stdout.readline().strip()

    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.line())
        return said

    def order(self, data: bytes, *fds: int) -> None:
        send_with_fds(self.control.fileno(), data, fds)

    def answer(self) -> dict[str, Any]:
        assert select.select([self.control], [], [], 10)[0], "it says nothing"
        with receive_with_fds(self.control.fileno()) as received:
            return wire.decode(received.data)


def _at_3(number: int) -> str:
    return f"import os; os.dup2({number}, 3, False)\n{ZYGOTE}"


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    try:
        assert stage.line() == "ready"
        yield stage
    finally:
        stage.control.close()
        try:
            stage.process.wait(10)
        finally:
            stage.process.kill()
            stage.process.wait()
            if stage.process.stdout is not None:
                stage.process.stdout.close()


def _start(stage: Stage, *more: str) -> tuple[socket.socket, int, list[int]]:
    """Our end of its handle, the read end of its cgroup's stand-in, and what was sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    names = ["conveyor", "handle", "channel", "cgroup", *more]
    fds = [null, theirs.fileno(), null, writer, *[null] * len(more)]
    stage.order(wire.encode_start("abc", names, fork=True), *fds)
    os.close(writer)
    os.close(null)
    theirs.close()
    return ours, reader, fds


def test_a_start(stage: Stage) -> None:
    handle, cgroup, _ = _start(stage)
    assert handle.recv(10) == b"U"
    assert os.read(cgroup, 10) == b"0"
    said = stage.said()
    assert said["kind"] == "instance" and said["locked"] == 1
    assert said["fds"][3] == -1 and said["numbers"] == said["fds"][:3]
    assert 3 not in said["open"], "orders are for the zygote"
    assert set(said["numbers"]) < set(said["open"])
    assert said["loop"] == "it turns"
    assert stage.answer() == {"is": "exited", "instance": "abc", "status": 7 << 8}
    assert handle.recv(10) == b"", "nobody has kept its handle"
    handle.close()
    os.close(cgroup)


def test_one_ahead_waits_behind_its_filter_for_its_conveyor(stage: Stage) -> None:
    handle, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    handle.settimeout(10)
    theirs.setblocking(False)
    with handle, theirs, open("/dev/null", "rb") as null:
        stage.order(wire.encode_start("abc", ["handle", "channel"], fork=True), theirs.fileno(), null.fileno())
        theirs.close()
        said = stage.said()
        assert said["kind"] == "instance" and said["locked"] == 1 and said["numbers"][0] == -1
        send_with_fds(handle.fileno(), wire.GO, [null.fileno()])
        assert handle.recv(10) == b"U"
        said = stage.said()
        assert said["ahead"] in said["open"] and said["ahead"] > 2
    assert stage.answer() == {"is": "exited", "instance": "abc", "status": 7 << 8}


@pytest.mark.parametrize("word", [b"", b"D", wire.GO])
def test_one_ahead_that_nobody_needs_ends(stage: Stage, word: bytes) -> None:
    """Also when it is sent for without a conveyor."""
    handle, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with handle, theirs, open("/dev/null", "rb") as null:
        stage.order(wire.encode_start("abc", ["handle", "channel"], fork=True), theirs.fileno(), null.fileno())
        theirs.close()
        if word:
            handle.send(word)
    assert stage.said()["kind"] == "instance"
    assert stage.answer() == {"is": "exited", "instance": "abc", "status": 0}


def test_with_a_grant_python_does_the_rest(stage: Stage) -> None:
    handle, cgroup, _ = _start(stage, "grant:db", "grant:db")
    said = stage.said()
    assert said["kind"] == "instance" and said["locked"] == 0
    assert len(said["fds"]) == 6 and wire.decode(said["message"].encode())["fds"][4:] == ["grant:db", "grant:db"]
    assert stage.answer()["instance"] == "abc"
    handle.close()
    os.close(cgroup)


def test_another_kind_of_message_is_python_s_and_so_is_its_child(stage: Stage) -> None:
    for data in (b'{"do":"other","fds":["null"]}', wire.encode_start("x", ["conveyor"], fork=False)):
        with open("/dev/null", "rb") as null:
            stage.order(data, null.fileno())
        said = stage.said()
        assert said["kind"] == "message" and said["message"].encode() == data and len(said["fds"]) == 1
        assert stage.said() == {"kind": "ended", "fds": said["fds"], "status": 9}


@pytest.mark.parametrize(
    "data",
    [
        b"S1\0x\0conveyor\0handle\0",  # no channel
        b"S1\0x\0conveyor\0handle\0channel\0strange\0",
        b"S1\0" + b"x" * 99 + b"\0conveyor\0handle\0channel\0",
        b"S1",
        b"S",
    ],
)
def test_what_is_no_plain_start_is_python_s(stage: Stage, data: bytes) -> None:
    stage.order(data)
    assert stage.said()["kind"] == "message"


def test_the_end(stage: Stage) -> None:
    stage.control.close()
    assert stage.line() == "over"
    assert stage.process.wait(10) == 0
