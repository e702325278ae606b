"""The operator's door on a real socket: who is let in, what bad questions get, and the CLI's own end of it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fildes.cli._client import Client, pids_of
from fildes.cli._shared import Trouble
from fildes.daemon.peer import Refused
from fildes.debug.access import OWNERS, Share, is_operator, share_of
from fildes.debug.door import MAX_CONNECTIONS, Call, Door
from fildes.kernel import memfd, process
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop


class House:
    """A door in a state directory, with verbs of its own; its loop runs in a thread."""

    def __init__(self, state: Path, operator: int) -> None:
        self.state = state
        self.gone = threading.Event()
        self.loop = Loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(state / "control"))
        listener.listen(128)
        verbs = {
            "echo": self.echo,
            "who": self.who,
            "large": self.large,
            "pids": self.pids,
            "wait": self.wait,
            "no": self.no,
            "bug": self.bug,
        }
        self.owners: dict[int, str] = {}
        self.door = Door(self.loop, Fd(listener.detach()), verbs, self.owner_of, operator, overflow=65534)
        self.loop.on_error = lambda error: None
        self._wake, self._sleep = os.pipe()
        self.loop.watch(self._wake, 1, lambda _: self.loop.stop())
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def close(self) -> None:
        os.close(self._sleep)
        self.thread.join(10)
        self.door.close()
        self.loop.close()
        os.close(self._wake)

    Reply = tuple[Any, Sequence[Fd]]

    async def owner_of(self, uid: int) -> str | None:
        return self.owners.get(uid)

    async def who(self, call: Call) -> Reply:
        return {"owner": call.owner}, ()

    async def echo(self, call: Call) -> Reply:
        call.note("heard", "you", 1.5)
        return call.read(dict), ()

    async def large(self, call: Call) -> Reply:
        return {"text": "x" * 300_000}, call.take_fds(1)

    async def pids(self, call: Call) -> Reply:
        return {"pidfds": 1}, [process.pidfd_open(os.getpid())]

    async def wait(self, call: Call) -> Reply:
        promise = self.loop.promise()

        def gone() -> None:
            self.gone.set()
            promise.resolve(None)

        call.on_gone = gone
        await promise
        return {}, ()

    async def no(self, call: Call) -> Reply:
        raise Refused("not-allowed", "no: ask for less", "[grants.db]")

    async def bug(self, call: Call) -> Reply:
        raise KeyError("oops")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    before = set(os.listdir("/proc/self/fd"))
    house = House(tmp_path, os.getuid())
    yield house
    house.close()
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left behind"


def test_asking(house: House) -> None:
    notes: list[tuple[str, str, float]] = []
    with Client(str(house.state)) as node:
        value, fds = node.ask("echo", {"ü": [1, None, 2.5]}, note=lambda *note: notes.append(note))
        assert (value, fds) == ({"ü": [1, None, 2.5]}, [])
        assert notes == [("heard", "you", 1.5)]
        assert node.ask("echo", {})[0] == {}


def test_large_answers_and_descriptors(house: House) -> None:
    with Client(str(house.state)) as node:
        value, fds = node.ask("large", {}, [memfd.sealed("given", b"hello")])
        assert len(value["text"]) == 300_000
        with fds[0] as same:
            assert memfd.read_sealed(same.fileno()) == b"hello"
        value, fds = node.ask("pids", {})
        assert pids_of(value, fds) == [os.getpid()]


def test_refusals_name_the_grant(house: House) -> None:
    with Client(str(house.state)) as node:
        with pytest.raises(
            Trouble, match=r"no: ask for less\nThese lines of the manifest would allow it:\n    \[grants\.db\]"
        ):
            node.ask("no", {})
        with pytest.raises(Trouble, match="KeyError"):
            node.ask("bug", {})
        with pytest.raises(Trouble, match="not a verb of this node; known are bug, echo"):
            node.ask("nothing", {})
        with pytest.raises(Trouble, match="expected 1 descriptors"):
            node.ask("large", {})
        assert node.ask("echo", {})[0] == {}, "the connection goes on"


def test_who_asks_is_told_when_the_asker_is_gone(house: House) -> None:
    sock = raw(house)
    sock.send(msgspec.msgpack.encode({"type": "ask", "id": 1, "verb": "wait", "body": {}}))
    sock.close()
    assert house.gone.wait(10)


def raw(house: House) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(house.state / "control"))
    return sock


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x80",
        b"\x93\x01\x02\x03",
        msgspec.msgpack.encode({"type": "ask", "id": "x", "verb": "echo", "body": {}}),
        msgspec.msgpack.encode({"type": "ask", "id": 1, "verb": "echo", "body": {}, "more": 1}),
        b"x" * 131072,
        b"\x91" * 100_000,
    ],
)
def test_malformed_questions_end_in_a_sentence(house: House, data: bytes) -> None:
    with raw(house) as sock:
        sock.send(data)
        answer = msgspec.msgpack.decode(sock.recv(65536))
        assert answer["type"] == "failed" and answer["code"] == "malformed"
        assert sock.recv(1) == b""
    with Client(str(house.state)) as node:
        assert node.ask("echo", {})[0] == {}, "nobody else is harmed"


def test_one_who_does_not_read_is_closed(house: House) -> None:
    ask = {"type": "ask", "verb": "large", "body": {}}
    with raw(house) as sock:
        sock.setblocking(False)
        sent = 0
        while sent < 5000:
            try:
                sock.send(msgspec.msgpack.encode(ask | {"id": sent, "verb": "no"}))
                sent += 1
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        assert sent < 5000


def test_too_many_operators(house: House) -> None:
    socks = [raw(house) for _ in range(MAX_CONNECTIONS)]
    try:
        with Client(str(house.state)) as node, pytest.raises(Trouble, match="64 are connected already"):
            node.ask("echo", {})
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.root
def test_a_stranger_is_told_who_may(tmp_path: Path) -> None:
    """The door of root's node, asked by a uid that is neither root nor the operator."""
    os.chmod(tmp_path, 0o755)
    house = House(tmp_path, 0)
    try:
        os.chmod(tmp_path / "control", 0o666)

        def ask() -> None:
            with pytest.raises(Trouble, match="uid 4242 is no operator of this node"), Client(".") as node:
                node.ask("echo", {})

        assert in_child(ask, 4242, tmp_path) == 0
    finally:
        house.close()


def in_child(work: Callable[[], None], uid: int, folder: Path) -> int:
    directory = os.open(folder, os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.fchdir(directory)
            os.setresuid(uid, uid, uid)
            work()
            status = 0
        finally:
            os._exit(status)
    os.close(directory)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_no_node(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match="no node runs on"):
        Client(str(tmp_path))
    with pytest.raises(Trouble, match="start a node there: fildes up"):
        Client(str(tmp_path / "nowhere"))
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(str(tmp_path / "control"))
    dead.close()
    with pytest.raises(Trouble, match="no node runs on"):
        Client(str(tmp_path))


def test_who_is_an_operator() -> None:
    assert is_operator(0, 1000, 65534) and is_operator(1000, 1000, 65534)
    assert not is_operator(1001, 1000, 65534)
    assert not is_operator(65534, 65534, 65534), "nobody stands for everybody"


def test_what_an_owner_may_ask() -> None:
    assert share_of("ps", {}) is Share.LIST
    assert share_of("owner-add", {"owner": "anna", "uid": 1}) is None
    for verb, share in OWNERS.items():
        if share is Share.SERVICE:
            assert share_of(verb, {"service": "shop"}) is share
            assert share_of(verb, {}) is share_of(verb, {"service": None}) is share_of(verb, []) is None


@pytest.mark.root
def test_an_owner_is_let_in_as_that_and_anybody_else_is_not(tmp_path: Path) -> None:
    house = House(tmp_path, operator=os.getuid())
    house.owners[4242] = "anna"
    os.chmod(tmp_path, 0o711)
    os.chmod(tmp_path / "control", 0o666)

    def asked_as(uid: int, *, hang_up: bool = False) -> str:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                os.chdir(tmp_path)
                os.setresuid(uid, uid, uid)
                sock.connect("control")
                question = {"type": "ask", "id": 1, "verb": "who", "body": {}}
                with contextlib.suppress(BrokenPipeError):  # it may have said no already
                    sock.send(msgspec.msgpack.encode(question))  # before anybody said that it may
                if hang_up:
                    sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    os.write(writer, sock.recv(4096))
                    os._exit(0)
                os.write(writer, sock.recv(4096))  # what it said before it closed (unix(7))
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as answers:
            data = answers.read()
        os.waitpid(pid, 0)
        return str(msgspec.msgpack.decode(data) if data else "closed")

    try:
        assert "4343 is no operator" in asked_as(4343)
        assert "anna" in asked_as(4242)
        for _ in range(20):
            assert "None" not in asked_as(4242, hang_up=True), "an owner was taken for an operator"
    finally:
        house.close()
