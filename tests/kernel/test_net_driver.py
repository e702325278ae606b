"""The net driver on real sockets, spoken to by a scripted peer instead of the bus."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from fildes.daemon.peer import Peer, Refused
from fildes.drivers.net.__main__ import Net
from fildes.drivers.net.census import Census, Tables
from fildes.drivers.net.lookup import Lookup
from fildes.kernel.fds import Fd, seqpacket_pair
from fildes.kernel.loop import Loop
from fildes.wire.drivers import Open, Opened
from fildes.wire.publish import Index


class Stage:
    """A driver and a peer that asks it, on one loop; and a TCP listener on the loopback."""

    def __init__(self) -> None:
        self.loop = Loop()
        here, there = seqpacket_pair()
        self.peer, other = Peer(self.loop, here), Peer(self.loop, there)
        self.ends = [here, there]
        self.names: dict[str, list[str]] = {}
        self.lookup = Lookup(self.loop, self.resolve)
        self.tables = Tables()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(10)
        self.port = self.server.getsockname()[1]
        settings = {"index": {"hosts": [f"127.0.0.1:{self.port}"]}}
        self.net = Net(self.loop, self.lookup, Census(self.tables.living), settings)
        other.on("net.open", Open, self.net.open)
        other.on("net.index", Index, self.net.index)

    def resolve(self, name: str) -> list[str]:
        if name not in self.names:
            raise OSError(-2, "Name or service not known")
        return self.names[name]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        task = self.loop.spawn(coroutine)
        task.when_done(lambda: None)
        deadline = self.loop.call_later(20, lambda: task.fail(TimeoutError("20 s")))
        try:
            return self.loop.run_until(task)
        finally:
            deadline.cancel()

    def settle(self) -> None:
        """Handle all that is at hand: what a unix socket or the loopback did is there at once."""
        for _ in range(8):
            self.loop.turn(block=False)

    def open(self, **options: object) -> Fd:
        body = Open("connect", "db", options, "4f1c", "shop")
        answer = self.run(self.peer.ask("net.open", body, reply=Opened))
        assert len(answer.fds) == 1
        fd: Fd = answer.fds[0]
        return fd

    def close(self) -> None:
        self.server.close()
        self.lookup.close()
        self.tables.close()
        self.loop.close()
        for end in self.ends:
            end.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    threads, before = threading.enumerate(), set(os.listdir("/proc/self/fd"))
    stage = Stage()
    yield stage
    stage.close()
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left behind"
    for thread in threading.enumerate():
        if thread not in threads:  # a look-up that has told its result may still be about to end
            thread.join(5)
            assert not thread.is_alive()


def test_a_connected_stream_comes_back(stage: Stage) -> None:
    with stage.open(to=f"127.0.0.1:{stage.port}", private=True) as fd:
        assert os.get_blocking(fd.fileno())
        peer, _ = stage.server.accept()
        with peer:
            os.write(fd.fileno(), b"hello")
            assert peer.recv(5) == b"hello"


def test_names_are_looked_up_and_tried_in_turn(stage: Stage) -> None:
    stage.names["db.example.org"] = ["127.0.0.2", "127.0.0.1"]  # nothing listens on the first
    with stage.open(to=f"db.example.org:{stage.port}", private=True) as fd:
        sock = socket.socket(fileno=os.dup(fd.fileno()))
        with sock:
            assert sock.getpeername() == ("127.0.0.1", stage.port)


def refusal(call: Callable[[], Fd]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def test_private_addresses_are_refused(stage: Stage) -> None:
    stage.names["sly.example.org"] = ["127.0.0.1", "169.254.169.254"]
    error = refusal(lambda: stage.open(to=f"sly.example.org:{stage.port}"))
    assert error.code == "not-allowed"
    assert "this machine itself" in error.text and "private = true" in (error.grant or "")


def test_what_cannot_be_reached(stage: Stage) -> None:
    assert "check `to`" in refusal(lambda: stage.open(to="nowhere.example.org:1")).text
    stage.server.close()
    assert "did not answer" in refusal(lambda: stage.open(to=f"127.0.0.1:{stage.port}", private=True)).text
    assert refusal(lambda: stage.open(to="no-port")).code == "malformed"


def test_a_grant_has_a_cap_on_open_connections(stage: Stage) -> None:
    grant = {"to": f"127.0.0.1:{stage.port}", "private": True, "connections": 2}
    first, second = stage.open(**grant), stage.open(**grant)
    assert refusal(lambda: stage.open(**grant)).code == "quota"
    first.close()
    stage.open(**grant).close()
    second.close()


# --- the way to the indexes


def lease(stage: Stage) -> tuple[Fd, int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    answer = stage.run(stage.peer.ask("net.index", Index(), [Fd(listener.detach())], reply=Index))
    return answer.fds[0], port


def in_thread(stage: Stage, work: Callable[[], bytes]) -> bytes:
    """What `work` returns, while the loop turns."""
    promise = stage.loop.promise()
    reader, writer = os.pipe()
    results: list[bytes] = []

    def run() -> None:
        try:
            results.append(work())
        finally:
            os.close(writer)

    thread = threading.Thread(target=run)
    stage.loop.watch(reader, 1, promise.resolve)
    thread.start()

    async def done() -> None:
        await promise

    try:
        stage.run(done())
    finally:
        stage.loop.unwatch(reader)
        thread.join(15)
        os.close(reader)
    return results[0]


def exchange(port: int, request: bytes, more: bytes = b"") -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(request)
        head = sock.recv(65536)
        if more:
            sock.sendall(more)
            sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(65536):
            head += part
        return head


def test_a_tunnel_to_the_index_and_back(stage: Stage) -> None:
    payload = os.urandom(3 << 20)

    def serve() -> None:
        peer, _ = stage.server.accept()
        with peer:
            got = b""
            while part := peer.recv(1 << 16):
                got += part
            peer.sendall(got[::-1])

    server = threading.Thread(target=serve)
    server.start()
    end, port = lease(stage)
    request = f"CONNECT 127.0.0.1:{stage.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answer = in_thread(stage, lambda: exchange(port, request, payload))
    server.join(10)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == payload[::-1]
    end.close()
    stage.settle()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"CONNECT elsewhere.example:443 HTTP/1.1\r\n\r\n", b"403"),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", b"403"),
        (b"GET http://elsewhere.example/ HTTP/1.1\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x00\x00\r\n\r\n", b"400"),
    ],
)
def test_nothing_else_is_reached(stage: Stage, request_: bytes, status: bytes) -> None:
    end, port = lease(stage)
    assert in_thread(stage, lambda: exchange(port, request_)).startswith(b"HTTP/1.1 " + status)
    end.close()
    stage.settle()


def test_the_proxy_ends_with_its_lease(stage: Stage) -> None:
    end, port = lease(stage)
    waiting = socket.create_connection(("127.0.0.1", port), 10)
    with waiting:
        stage.settle()  # it is accepted, and its head awaited
        end.close()
        stage.settle()
        assert waiting.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)
