"""A door or a static daemon in a process of its own, with its real main loop, on real sockets.

The test stands in for everybody else: a thread is init's fd store and the far end of the bus; conveyors end in the
test itself, which plays the instances.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from fildes.daemon.peer import Asked, Empty, Peer, Refused
from fildes.kernel.fds import Fd, close_all, receive_with_fds, send_with_fds, seqpacket_pair, set_blocking
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.kernel.memfd import sealed
from fildes.pack.collect import Source
from fildes.pack.writer import write
from fildes.wire import catalogue, conveyor, log, orchestrator
from fildes.wire import store as store_wire
from fildes.wire import web as web_wire

DEADLINE = 10.0

_START = """
import json, sys
from fildes.daemon.start import Inheritance, run
from fildes.kernel.fds import Fd
name, module, channel, store, fds, settings = json.loads(sys.argv[1])
sys.exit(run(module, Inheritance(name, Fd(channel), Fd(store), {k: Fd(n) for k, n in fds.items()}, settings)))
"""


def until(condition: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Poll until `condition()` is true, and return what it returned."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what or condition}"
        select.select([], [], [], 0.002)


class Store:
    """init's side of one daemon's store."""

    def __init__(self, loop: Loop, end: Fd) -> None:
        self.deposits: dict[str, tuple[bytes, list[Fd]]] = {}
        self._end = end
        self._loop = loop
        self.ready = threading.Event()
        set_blocking(end.fileno(), False)
        loop.watch(end.fileno(), EPOLLIN, self._read)

    def _read(self, _: int) -> None:
        received = receive_with_fds(self._end.fileno())
        frame = store_wire.decode_to_init(received.data)
        if isinstance(frame, store_wire.Deposit):
            self._drop(frame.key)
            self.deposits[frame.key.decode()] = frame.blob, received.fds
        elif isinstance(frame, store_wire.Drop):
            self._drop(frame.key)
        elif isinstance(frame, store_wire.Ready):
            self.ready.set()
        elif isinstance(frame, store_wire.Collect):
            for serial, (key, (blob, fds)) in enumerate(self.deposits.items(), 1):
                item = store_wire.Item(frame.nonce, serial, key.encode(), blob)
                send_with_fds(self._end.fileno(), store_wire.encode(item), [fd.fileno() for fd in fds])
            send_with_fds(self._end.fileno(), store_wire.encode(store_wire.End(frame.nonce, 10**6, False)))

    def _drop(self, key: bytes) -> None:
        if (held := self.deposits.pop(key.decode(), None)) is not None:
            close_all(held[1])

    def close(self) -> None:
        for key in list(self.deposits):
            self._drop(key.encode())
        self._loop.unwatch(self._end.fileno())
        self._end.close()


class Stage:
    """The thread, and one daemon beside it. Use `on_stage` for whatever touches the peer."""

    def __init__(self, name: str, module: str, fds: dict[str, socket.socket]) -> None:
        self.name, self.module, self._fds = name, module, fds
        self.loop = Loop(on_error=self._noted)
        self.errors: list[BaseException] = []
        near, self._far = seqpacket_pair()
        self.store_near, self._store_far = seqpacket_pair()
        self.peer = Peer(self.loop, near)
        self._near = near
        self.store = Store(self.loop, self.store_near)
        self.routes: list[catalogue.Route] = []
        self.number = 1
        self.asked: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.logged: list[str] = []
        self._wake_in, self._wake_out = (Fd(n) for n in os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        self._todo: queue.Queue[Callable[[], Any]] = queue.Queue()
        self.loop.watch(self._wake_in.fileno(), EPOLLIN, self._do)
        self.peer.on("catalogue.subscribe", catalogue.Subscribe, self._snapshot)
        self.peer.on_event("log.append", log.Append, lambda asked: self.logged.append(asked.body.text))
        self.process: subprocess.Popen[bytes] | None = None
        self.limit: int | None = None  # of descriptors
        self.settings: dict[str, Any] = {}  # of `fildes up`
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _noted(self, error: BaseException) -> None:
        self.errors.append(error)

    def _do(self, _: int) -> None:
        os.read(self._wake_in.fileno(), 4096)
        while not self._todo.empty():
            self._todo.get()()

    def on_stage(self, action: Callable[[], Any]) -> Any:
        """Run `action` in the loop's thread and return its result."""
        done: queue.Queue[Any] = queue.Queue()

        def run() -> None:
            try:
                done.put((action(), None))
            except BaseException as error:
                done.put((None, error))

        self._todo.put(run)
        os.write(self._wake_out.fileno(), b"!")
        value, error = done.get(timeout=DEADLINE)
        if error is not None:
            raise error
        return value

    def ask(self, verb: str, body: Any, reply: Any) -> Any:
        """Ask the daemon, as if another daemon did. Returns the Answer, or raises Refused."""
        done: queue.Queue[Any] = queue.Queue()

        async def run() -> None:
            try:
                done.put(await self.peer.ask(verb, body, reply=reply, timeout=DEADLINE))
            except Refused as refused:
                done.put(refused)

        self.on_stage(lambda: self.loop.spawn(run()))
        answer = done.get(timeout=DEADLINE)
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def _snapshot(self, asked: Asked[catalogue.Subscribe]) -> tuple[catalogue.Snapshot, list[Fd]]:
        return catalogue.Snapshot(self.number), [sealed("routes", msgspec.msgpack.encode(self.routes))]

    def delta(self, put: list[catalogue.Route], gone: list[str] | None = None) -> None:
        def tell() -> None:
            left = [route for route in self.routes if route.release not in (gone or [])]
            self.routes = [r for r in left if (r.host, r.prefix) not in {(n.host, n.prefix) for n in put}] + put
            after, self.number = self.number, self.number + 1
            self.peer.tell(f"{self.name}.delta", catalogue.RouteDelta(after, self.number, put, gone or []))

        self.on_stage(tell)

    # — the daemon —

    def start(self) -> None:
        channel, store = self._far, self._store_far
        numbers = {name: sock.fileno() for name, sock in self._fds.items()}
        arguments = [self.name, self.module, channel.fileno(), store.fileno(), numbers, self.settings]
        passed = [channel.fileno(), store.fileno(), *numbers.values()]
        self.store.ready.clear()
        command = [sys.executable, "-c", _START, msgspec.json.encode(arguments).decode()]
        if self.limit is not None:
            command = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(self.limit), *command]
        self.process = subprocess.Popen(command, pass_fds=passed)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)

    def fd_count(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE)
        self.on_stage(self.store.close)
        self.on_stage(lambda: self.loop.unwatch(self._near.fileno()))
        self.on_stage(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()
        close_all([self._near, self._far, self._store_far, self._wake_in, self._wake_out])


class Instance:
    """The receiving end of a conveyor, and what an instance says on it."""

    def __init__(self, end: Fd) -> None:
        self.sock = socket.socket(fileno=end.take())
        self.sock.setblocking(True)
        self.sock.settimeout(DEADLINE)

    def receive(self) -> list[tuple[conveyor.Connection, socket.socket]]:
        """One datagram's connections, as they came: non-blocking."""
        select.select([self.sock], [], [], DEADLINE)
        received = receive_with_fds(self.sock.fileno(), conveyor.MAX_DATAGRAM, 32)
        connections = conveyor.decode_inward(received.data, len(received.fds))
        assert isinstance(connections, list)
        return [(c, socket.socket(fileno=fd.take())) for c, fd in zip(connections, received.fds, strict=True)]

    def one(self) -> tuple[conveyor.Connection, socket.socket]:
        (pair,) = self.receive()
        return pair

    def waits(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])

    def say(self, data: bytes, fds: list[int] | None = None) -> None:
        send_with_fds(self.sock.fileno(), data, fds or [])

    def take(self, *serials: int) -> None:
        self.say(conveyor.encode_taken(serials))

    def begin(self, *serials: int) -> None:
        self.say(conveyor.encode_done(serials))

    def keep(self, *serials: int) -> None:
        self.say(conveyor.encode_kept(serials))

    def end(self, *serials: int) -> None:
        self.say(conveyor.encode_ended(serials))

    def hand_back(self, serial: int, head: bytes, sock: socket.socket) -> None:
        self.say(conveyor.encode_back(serial, head), [sock.fileno()])

    def serve_one(self, body: bytes = b"hello", close: bool = True) -> conveyor.Connection:
        """Take one connection, answer it as programs do, and let go of it."""
        connection, sock = self.one()
        self.take(connection.serial)
        self.begin(connection.serial)
        with sock:
            sock.sendall(response(body, close=close))
        return connection

    def close(self) -> None:
        self.sock.close()


def response(body: bytes, close: bool = True) -> bytes:
    last = b"connection: close\r\n" if close else b""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b" % (len(body), last, body)


class DoorStage(Stage):
    """A door whose orchestrator is this object: conveyors by release, made when asked for."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self.listener.getsockname()
        super().__init__("web", "fildes.web.__main__", {"http0": self.listener})
        self._ends: dict[str, tuple[Fd, Fd]] = {}
        self._instances: list[Instance] = []
        self.refuse: dict[str, Refused] = {}
        self.mixed: list[list[str]] = []
        self.fetched: list[str] = []
        self.peer.on("orchestrator.conveyor", orchestrator.GetConveyor, self._conveyor)
        self.peer.on_event("static.mixed", web_wire.Mixed, lambda asked: self.mixed.append(asked.body.hosts))

    async def _conveyor(self, asked: Asked[orchestrator.GetConveyor]) -> tuple[Empty, list[Fd]]:
        release = asked.body.release
        self.fetched.append(release)
        if release in self.refuse:
            raise self.refuse[release]
        return Empty(), [self._pair(release)[0].dup()]

    def _pair(self, release: str) -> tuple[Fd, Fd]:
        if release not in self._ends:
            self._ends[release] = seqpacket_pair()
        return self._ends[release]

    def instance(self, release: str) -> Instance:
        """A receiver of the release's conveyor; several may be open."""
        instance = Instance(self.on_stage(self._pair(release)[1].dup))
        self._instances.append(instance)
        return instance

    def offer(self, release: str, service: str = "") -> None:
        """web.conveyor, unasked."""
        self.on_stage(
            lambda: self.peer.tell("web.conveyor", web_wire.Conveyor(release, service), [self._pair(release)[0].dup()])
        )

    def forget(self, release: str) -> None:
        """Close the orchestrator's ends: without instances the conveyor is gone."""
        self.on_stage(lambda: close_all(self._ends.pop(release)))

    def tell(self, verb: str, body: Any) -> None:
        self.on_stage(lambda: self.peer.tell(verb, body))

    def delta(self, put: list[catalogue.Route], gone: list[str] | None = None) -> None:
        super().delta(put, gone)
        self.counts()  # comes behind it in the same queue

    def counts(self) -> web_wire.CountsGiven:
        counted = self.ask("web.counts", web_wire.Counts(), web_wire.CountsGiven).body
        assert isinstance(counted, web_wire.CountsGiven)
        return counted

    def counted(self, release: str) -> web_wire.Counted:
        return self.counts().releases.get(release, web_wire.Counted())

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(self.address, timeout=DEADLINE, source_address=(source, 0))

    def again(self, **settings: Any) -> None:
        """Start it anew, with settings of `fildes up`."""
        self.kill()
        self.settings = settings
        self.start()
        assert self.store.ready.wait(DEADLINE)

    def request(self, data: bytes) -> bytes:
        """Send `data` on a new connection and read until the end."""
        with self.connect() as sock:
            sock.sendall(data)
            return read_all(sock)

    def close(self) -> None:
        super().close()
        for instance in self._instances:  # those that a failed test left open
            instance.close()
        for ends in self._ends.values():
            close_all(ends)
        self.listener.close()


class StaticStage(Stage):
    """A static daemon; this object is its door and its catalogue. Every new connection is passed on as it comes."""

    def __init__(self) -> None:
        super().__init__("static", "fildes.static.__main__", {})
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as the door does
        self.address = self.listener.getsockname()
        self.ends = seqpacket_pair()
        self.mixed: list[str] = []
        self.packs: dict[str, Fd] = {}
        self.opened: list[str] = []
        self.returned: queue.Queue[tuple[conveyor.Back, socket.socket]] = queue.Queue()
        self.done: set[int] = set()
        self.taken: set[int] = set()
        self.flags = 0
        self.door: DoorStage | None = None  # a real one in place of this object
        self.front = True  # whether new connections are passed on by themselves
        self._serial = 0
        self.peer.on("web.static_end", web_wire.StaticEnd, self._end)
        self.peer.on("catalogue.pack", catalogue.Pack, self._pack)
        self.listener.setblocking(False)
        set_blocking(self.ends[0].fileno(), False)
        self.loop.watch(self.listener.fileno(), EPOLLIN, self._accept)
        self.loop.watch(self.ends[0].fileno(), EPOLLIN, self._told)

    async def _end(self, asked: Asked[web_wire.StaticEnd]) -> tuple[web_wire.StaticEndGiven, list[Fd]]:
        if self.door is not None:
            answer = self.door.ask("web.static_end", asked.body, web_wire.StaticEndGiven)
            return answer.body, answer.fds
        return web_wire.StaticEndGiven(self.mixed), [self.ends[1].dup()]

    async def _pack(self, asked: Asked[catalogue.Pack]) -> tuple[catalogue.Packed, list[Fd]]:
        self.opened.append(asked.body.release)
        if asked.body.release not in self.packs:
            raise Refused("not-found", "there is no such release")
        return catalogue.Packed(0), [self.packs[asked.body.release].dup()]

    def site(
        self,
        release: str,
        files: dict[str, bytes | None],
        *,
        variants: Sequence[Source] = (),
        mtime: int = 1_700_000_000,
    ) -> None:
        """Pack `files` (None: a directory) as the release's tree, with `variants` of them."""
        with tempfile.TemporaryFile() as file:
            members = [Source("/app", None, 0o755, mtime)]
            for path, data in files.items():
                members.append(Source(f"/app/{path}", data, 0o755 if data is None else 0o644, mtime))
            write(file, [*members, *variants])
            file.flush()
            if release in self.packs:
                self.packs[release].close()
            self.packs[release] = Fd(os.dup(file.fileno()))

    def _accept(self, _: int) -> None:
        if self.front:
            with contextlib.suppress(BlockingIOError):
                sock, _ = self.listener.accept()
                sock.setblocking(True)
                self.pass_on(sock, sock.recv(65536), self.flags)

    def pass_on(self, sock: socket.socket, head: bytes, flags: int = 0) -> int:
        """Give a connection to the daemon. Owns `sock`. Returns its serial."""
        self._serial += 1
        sock.setblocking(False)
        data = conveyor.encode_connections([conveyor.Connection(self._serial, flags, b"127.0.0.1 1", head)])
        send_with_fds(self.ends[0].fileno(), data, [sock.fileno()])
        sock.close()
        return self._serial

    def _told(self, _: int) -> None:
        received = receive_with_fds(self.ends[0].fileno(), conveyor.MAX_DATAGRAM)
        told = conveyor.decode_outward(received.data, len(received.fds))
        if isinstance(told, conveyor.Back):
            self.returned.put((told, socket.socket(fileno=received.fds[0].take())))
        elif isinstance(told, conveyor.Done | conveyor.Kept):
            self.done |= set(told.serials)
        elif isinstance(told, conveyor.Taken):
            self.taken |= set(told.serials)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=DEADLINE)

    def close(self) -> None:
        super().close()
        close_all([*self.packs.values(), *self.ends])
        self.listener.close()
        while not self.returned.empty():
            self.returned.get()[1].close()


def read_all(sock: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def get(host: str, path: str = "/", method: str = "GET", extra: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode()


def route(
    host: str, release: str, prefix: str = "/", owner: str = "anna", runtime: Any = "asgi", service: str = ""
) -> catalogue.Route:
    return catalogue.Route(host, prefix, service or f"service-{release}", release, owner, runtime)


class Kit:
    """What tests import, since test files can't import a conftest."""

    until = staticmethod(until)
    read_all = staticmethod(read_all)
    get = staticmethod(get)
    route = staticmethod(route)
    response = staticmethod(response)
    Instance = Instance
    FILES: Any = None
    DEADLINE = DEADLINE


@pytest.fixture
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def door() -> Iterator[DoorStage]:
    """A running door that knows a.test (release aaaa of anna), b.test (bbbb of anna) and c.test (cccc of carl)."""
    stage = DoorStage()
    stage.routes = [route("a.test", "aaaa"), route("b.test", "bbbb"), route("c.test", "cccc", owner="carl")]
    try:
        stage.start()
        assert stage.store.ready.wait(DEADLINE)
        yield stage
        assert stage.alive(), "the door died"
        assert not stage.errors
    finally:
        stage.close()


FILES: dict[str, bytes | None] = {
    "index.html": b"<h1>home</h1>",
    "style.css": b"body {}",
    "404.html": b"<h1>lost</h1>",
    "docs/index.html": b"docs",
    "docs/a b.txt": b"with a blank",
    "docs/\u00e4.html": b"umlaut",
    "empty": None,
    "nothing.txt": b"",
    ".secret": b"no",
    ".well-known/security.txt": b"contact",
    "fildes.toml": b"no",
    "ten.bin": bytes(range(256)) * 40,
    "large.bin": bytes(range(256)) * 4000,
}

Kit.FILES = FILES


@pytest.fixture
def static() -> Iterator[StaticStage]:
    """A running static daemon with s.test (FILES) and t.test/docs."""
    stage = StaticStage()
    stage.routes = [route("s.test", "5555", runtime="static"), route("t.test", "6666", "/docs", runtime="static")]
    stage.site("5555", FILES)
    stage.site("6666", {"index.html": b"t docs", "sub/index.html": b"t sub"})
    try:
        stage.start()
        assert stage.store.ready.wait(DEADLINE)
        yield stage
        assert stage.alive(), "static died"
    finally:
        stage.close()
