"""A stage: a real zygote with real instances, and a small real door that hands real TCP connections over to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds, seqpacket_pair, stream_pair
from fildes.wire import conveyor
from fildes.wire.http import Bad, Head, parse, refusal

HERE = Path(__file__).parent
DEADLINE = 10.0

try:
    import uvloop  # noqa: F401

    LOOPS = ["uvloop", "asyncio"]
except ImportError:
    LOOPS = ["asyncio"]


def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        select.select([], [], [], 0.002)
    return value


class Door:
    """Accepts, reads a head, sends it with the connection over the conveyor, and drops its copy at "done"."""

    def __init__(self, conveyor_end: Fd) -> None:
        self.end = conveyor_end
        self.flags = 0
        self.batch = 1  # connections a message
        self.taken: list[int] = []
        self.done: list[int] = []
        self.back: list[tuple[int, bytes]] = []
        self.held: dict[int, socket.socket] = {}
        self._serial = 0
        self._pending: list[tuple[conveyor.Connection, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._reading: dict[int, tuple[socket.socket, bytes]] = {}
        self._stop_reader, self._stop_writer = os.pipe()
        self._poll = select.poll()
        for fd in (self._listener.fileno(), self.end.fileno(), self._stop_reader):
            self._poll.register(fd, select.POLLIN)
        self.pause = threading.Event()  # no reading of the conveyor while it is set
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        os.write(self._stop_writer, b"x")
        self._thread.join(DEADLINE)
        self._listener.close()
        os.close(self._stop_reader)
        os.close(self._stop_writer)
        for sock in [*self.held.values(), *[s for s, _ in self._reading.values()], *[s for _, s in self._pending]]:
            sock.close()
        self.end.close()

    def _run(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._stop_reader:
                    return
                if fd == self._listener.fileno():
                    sock, _ = self._listener.accept()
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._reading[sock.fileno()] = (sock, b"")
                    self._poll.register(sock.fileno(), select.POLLIN)
                elif fd == self.end.fileno():
                    if self.pause.is_set():
                        time.sleep(0.001)
                        continue
                    self._on_conveyor()
                else:
                    self._read(fd)

    def _read(self, fd: int) -> None:
        sock, data = self._reading[fd]
        try:
            more = sock.recv(8192)
        except OSError:
            more = b""
        head = parse(data + more)
        if more and not isinstance(head, Head | Bad):
            self._reading[fd] = (sock, data + more)
            return
        self._poll.unregister(fd)
        del self._reading[fd]
        if not more or isinstance(head, Bad):
            if isinstance(head, Bad):
                sock.send(refusal(head))
            sock.close()
            return
        self.send(sock, data + more)

    def send(self, sock: socket.socket, data: bytes) -> None:
        try:
            peer = "{} {}".format(*sock.getpeername()).encode()
        except OSError:
            peer = b"0.0.0.0 0"
        self._serial += 1
        self._pending.append((conveyor.Connection(self._serial, self.flags, peer, data), sock))
        if len(self._pending) >= self.batch:
            pending, self._pending = self._pending, []
            for connection, one in pending:
                self.held[connection.serial] = one
            message = conveyor.encode_connections([connection for connection, _ in pending])
            send_with_fds(self.end.fileno(), message, [one.fileno() for _, one in pending])

    def _on_conveyor(self) -> None:
        received = receive_with_fds(self.end.fileno(), conveyor.MAX_DATAGRAM)
        if not received.data:
            self._poll.unregister(self.end.fileno())
            return
        message = conveyor.decode_outward(received.data, len(received.fds))
        if isinstance(message, conveyor.Taken):
            self.taken += message.serials
        elif isinstance(message, conveyor.Done | conveyor.Kept):
            for serial in message.serials:
                self.held.pop(serial).close()
            self.done += message.serials
        elif isinstance(message, conveyor.Back):
            fd = received.fds.pop()
            self.back.append((message.serial, message.head))
            sock = socket.socket(fileno=fd.take())
            self.on_back(sock, message.head)

    def on_back(self, sock: socket.socket, head: bytes) -> None:
        """What was handed back is answered by the door itself here; with ONCE it goes in again."""
        if self.flags & conveyor.ONCE:
            if head:
                self.send(sock, head)
            else:
                self._reading[sock.fileno()] = (sock, b"")
                self._poll.register(sock.fileno(), select.POLLIN)
            return
        sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndoor")
        sock.close()


class Instance:
    def __init__(self, stage: Stage, pid: int, handle: Fd) -> None:
        self.stage = stage
        self.pid = pid
        self.handle = handle
        self.status: int | None = None

    def drain(self) -> None:
        send_with_fds(self.handle.fileno(), b"D")

    def ask_how(self) -> None:
        send_with_fds(self.handle.fileno(), b"?")

    def said(self) -> bytes:
        return receive_with_fds(self.handle.fileno()).data

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(int(self.stage.order(f"reap {self.pid}")))
        return self.status

    def fds(self) -> dict[int, str]:
        """Its descriptors."""
        there = f"/proc/{self.pid}/fd"
        found = {}
        for name in os.listdir(there):
            with contextlib.suppress(FileNotFoundError):
                found[int(name)] = os.readlink(f"{there}/{name}")
        return found


class Stage:
    def __init__(self, tmp: Path, settings: dict[str, Any], env: dict[str, str], instances: int = 4) -> None:
        self.settings = settings
        self.log_path = tmp / "log"
        door_end, self.conveyor = seqpacket_pair(512 * 1024)
        pairs = [seqpacket_pair() for _ in range(instances)]
        self._handles = [ours for ours, _ in pairs]
        self.instances: list[Instance] = []
        theirs = self.handle_numbers = [fd.fileno() for _, fd in pairs]
        with self.log_path.open("wb") as log:
            self.zygote = subprocess.Popen(
                [
                    sys.executable,
                    HERE / "zygote.py",
                    json.dumps(settings),
                    str(self.conveyor.fileno()),
                    *map(str, theirs),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[self.conveyor.fileno(), *theirs],
                env={**os.environ, **env},
                text=True,
            )
        for _, fd in pairs:
            fd.close()
        self.door = Door(door_end)
        self.loaded = self._line()

    def _line(self) -> str:
        return self.zygote.stdout.readline().strip()  # type: ignore[union-attr]

    def order(self, line: str) -> str:
        self.zygote.stdin.write(line + "\n")  # type: ignore[union-attr]
        self.zygote.stdin.flush()  # type: ignore[union-attr]
        return self._line()

    def start(self) -> Instance:
        number = len(self.instances)
        instance = Instance(self, int(self.order(f"start {number}")), self._handles[number])
        self.instances.append(instance)
        return instance

    def log(self) -> str:
        return self.log_path.read_text()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.door.port), timeout=DEADLINE)

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.door.port, timeout=DEADLINE)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """One request on a connection of its own: status, body, headers in lower case."""
        client = self.client()
        try:
            client.request(method, path, body, headers)
            response = client.getresponse()
            return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
        finally:
            client.close()

    def raw(self, data: bytes, half_close: bool = False) -> bytes:
        """Send bytes, and return everything until the server closes."""
        with self.connect() as sock:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            return self.read_all(sock)

    @staticmethod
    def read_all(sock: socket.socket) -> bytes:
        data = b""
        while more := sock.recv(65536):
            data += more
        return data

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
        return until(condition, seconds)

    def introduce(self, caller: str) -> socket.socket:
        ours, theirs = stream_pair()
        send_with_fds(self.door.end.fileno(), conveyor.encode_introduction(caller), [theirs.fileno()])
        theirs.close()
        sock = socket.socket(fileno=ours.take())
        sock.settimeout(DEADLINE)
        return sock

    def close(self) -> None:
        for instance in self.instances:
            if instance.status is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(instance.pid, signal.SIGKILL)
        self.zygote.kill()
        self.zygote.communicate()
        self.door.close()
        self.conveyor.close()
        for handle in self._handles:
            handle.close()


def settings_for(loop: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "service": "tested",
        "release": "0123456789ab",
        "entry": "app:app",
        "hosts": ["127.0.0.1", "a.example"],
        "grants": [],
        "concurrency": 64,
        "idle": 60,
        "paths": [str(HERE)],
        "loop": loop,
        "filter": True,
    } | settings


@pytest.fixture(scope="module", params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_stage(tmp_path: Path, loop: str) -> Iterator[Callable[..., Stage]]:
    """A stage of one's own, without an instance yet."""
    stages: list[Stage] = []

    def make(env: dict[str, str] | None = None, **settings: Any) -> Stage:
        stages.append(Stage(tmp_path, settings_for(loop, settings), env or {}))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, loop: str) -> Iterator[Stage]:
    """A stage with one instance running, for all tests of a module."""
    made = Stage(tmp_path_factory.mktemp("stage"), settings_for(loop, {}), {})
    assert made.loaded == "loaded 1", made.log()
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, loop: str) -> Iterator[Stage]:
    """The same, where a request's body is at most 1000 bytes."""
    made = Stage(tmp_path_factory.mktemp("small"), settings_for(loop, {"body": 1000}), {})
    made.start()
    yield made
    made.close()
