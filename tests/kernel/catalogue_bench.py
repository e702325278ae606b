"""For tests of the catalogue: the bus's end of its channel, with the other daemons' parts played by the test."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fildes import manifest
from fildes.catalogue.database import Database
from fildes.catalogue.objects import Objects
from fildes.catalogue.publishing import Publishing
from fildes.catalogue.verbs import Verbs
from fildes.daemon.peer import Empty, Peer, Refused
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, close_all, receive_with_fds, send_with_fds, seqpacket_pair
from fildes.kernel.loop import EPOLLIN, Loop, Promise
from fildes.pack.collect import Source
from fildes.pack.writer import write
from fildes.wire import catalogue as wire
from fildes.wire import message
from fildes.wire.message import Event, Failure, Reply, Request
from fildes.wire.orchestrator import Warm, Warmed

T = TypeVar("T", bound=msgspec.Struct)
DELTAS: dict[str, type[msgspec.Struct]] = {
    "web.delta": wire.RouteDelta,
    "static.delta": wire.RouteDelta,
    "bus.delta": wire.RightsDelta,
    "orchestrator.delta": wire.ReleaseDelta,
}
ITEMS: dict[str, type[msgspec.Struct]] = {
    "web": wire.Route,
    "static": wire.Route,
    "bus": wire.Rights,
    "orchestrator": wire.Release,
}


class Died(Exception):
    """The catalogue's end of the channel closed."""


class Bus:
    """Asks as any daemon, answers for the orchestrator and the log, notes the events. `warm` plays the orchestrator:
    it gets a Release and returns phases, a Refused, or a Promise of one of them."""

    def __init__(self, loop: Loop, far: Fd) -> None:
        self.loop, self.far = loop, far
        self.events: list[tuple[str, Any]] = []
        self.warmed: list[wire.Release] = []
        self.forgotten: list[str] = []
        self.log: list[str] = []  # what came in which order
        self.warm: Callable[[wire.Release], Any] = lambda release: {"load": 1.0}
        self._waiting: dict[int, tuple[Promise[Any], Any]] = {}
        self._id = 0
        loop.watch(far.fileno(), EPOLLIN, self._readable)

    def start(
        self, sender: str, word: str, body: msgspec.Struct, fds: Sequence[Fd] = (), reply: Any = None
    ) -> Promise[Any]:
        self._id += 1
        promise: Promise[Any] = Promise(self.loop)
        self._waiting[self._id] = promise, reply
        data = message.encode(Request(self._id, f"catalogue.{word}", message.pack(body), sender))
        try:
            send_with_fds(self.far.fileno(), data, [fd.fileno() for fd in fds])
        except BrokenPipeError:
            promise.fail(Died())
        close_all(fds)
        return promise

    def ask(
        self, sender: str, word: str, body: msgspec.Struct, fds: Sequence[Fd] = (), reply: Any = None
    ) -> tuple[Any, list[Fd]]:
        result: tuple[Any, list[Fd]] = self.loop.run_until(self.start(sender, word, body, fds, reply))
        return result

    def close(self) -> None:
        self.loop.unwatch(self.far.fileno())
        self.far.close()

    def _readable(self, _: int) -> None:
        received = receive_with_fds(self.far.fileno(), message.MAX_DATAGRAM)
        if not received.data:
            self.loop.unwatch(self.far.fileno())
            for promise, _type in self._waiting.values():
                promise.fail(Died())
            return
        got = message.decode(received.data)
        if isinstance(got, Request):
            self._asked(got)
        elif isinstance(got, Event):
            self.log.append(got.verb)
            self.events.append((got.verb, msgspec.msgpack.decode(got.body, type=DELTAS[got.verb])))
        elif isinstance(got, Reply):
            self.log.append("reply")
            promise, reply = self._waiting.pop(got.id)
            promise.resolve((msgspec.msgpack.decode(got.body, type=reply or Empty), received.fds))
        elif isinstance(got, Failure):
            self.log.append("failure")
            self._waiting.pop(got.id)[0].fail(Refused(got.code, got.text, got.grant))

    def _asked(self, request: Request) -> None:
        self.log.append(request.verb)
        if request.verb == "log.forget":
            self.forgotten.append(msgspec.msgpack.decode(request.body)["service"])
            self._send(Reply(request.id, message.pack(Empty())))
            return
        assert request.verb == "orchestrator.warm"
        release = msgspec.msgpack.decode(request.body, type=Warm).release
        self.warmed.append(release)
        outcome = self.warm(release)
        if isinstance(outcome, Promise):
            outcome.when_done(lambda: self._answer_warm(request.id, outcome.result()))
        else:
            self._answer_warm(request.id, outcome)

    def _answer_warm(self, id: int, outcome: Any) -> None:
        if isinstance(outcome, Refused):
            self._send(Failure(id, outcome.code, outcome.text, outcome.grant))
        else:
            self._send(Reply(id, message.pack(Warmed(outcome))))

    def _send(self, envelope: message.Message) -> None:
        send_with_fds(self.far.fileno(), message.encode(envelope))

    # — words for tests —

    def publish(
        self, text: str, pack: bytes | None = None, *, owner: str = "anna", bundle: bytes = b"bundle", abi: str = "py"
    ) -> wire.Published:
        published: wire.Published = self.loop.run_until(
            self.start_publish(text, pack, owner=owner, bundle=bundle, abi=abi)
        )[0]
        return published

    def start_publish(
        self, text: str, pack: bytes | None = None, *, owner: str = "anna", bundle: bytes = b"bundle", abi: str = "py"
    ) -> Promise[Any]:
        read = manifest.read(text.encode())
        body = wire.Publish(owner, read, hashlib.sha256(bundle).hexdigest(), abi if read.runtime == "asgi" else "")
        if pack is None:
            pack = site() if read.runtime == "static" else b"pack of " + bundle
        fds = [memfd.sealed("bundle", bundle), memfd.sealed("pack", pack)]
        return self.start("publish", "publish", body, fds, wire.Published)

    def snapshot(self, audience: str) -> tuple[int, list[Any]]:
        answer, (fd,) = self.ask(audience, "subscribe", wire.Subscribe(), reply=wire.Snapshot)
        with fd:
            items: Any = ITEMS[audience]
            return answer.number, msgspec.msgpack.decode(memfd.read_sealed(fd.fileno()), type=list[items])

    def routes(self) -> dict[str, str]:
        """host + prefix → release."""
        return {route.host + route.prefix: route.release for route in self.snapshot("web")[1]}

    def deltas(self, audience: str) -> list[Any]:
        return [delta for verb, delta in self.events if verb == f"{audience}.delta"]


class Bench(Bus):
    """The catalogue of this process, on a state directory, and the bus's end of its channel."""

    def __init__(self, state: Path) -> None:
        state.mkdir(exist_ok=True)
        loop = Loop(on_error=self._on_error)
        self.errors: list[BaseException] = []
        near, far = seqpacket_pair(1 << 20)
        self.near, self.path = near, state
        self.directory = Fd.open(str(state), os.O_RDONLY | os.O_DIRECTORY)
        super().__init__(loop, far)
        self.peer = Peer(loop, near)
        self.db = Database(self.directory.fileno(), 500_000)
        self.objects = Objects(loop, self.directory.fileno())
        self.publishing = Publishing(loop, self.peer, self.db, self.objects, ["127.0.0.1:8080"], time.time)
        self.lost = self.publishing.recover()
        Verbs(self.publishing, ["127.0.0.1:8080"]).register()
        loop.turn(block=False)

    def _on_error(self, error: BaseException) -> None:
        self.errors.append(error)

    def settle(self) -> None:
        """Let everything that is queued happen."""
        for _ in range(8):
            self.loop.turn(block=False)

    def close(self) -> None:
        self.settle()
        super().close()
        self.loop.unwatch(self.near.fileno())
        self.near.close()
        self.db.close()
        self.objects.close()
        self.directory.close()
        self.loop.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def files(self) -> set[str]:
        return set(os.listdir(self.path / "objects"))

    def consistent(self) -> None:
        """What must be true whenever nothing is under way."""
        rows = self.db._rows("SELECT id, service, state, bundle, pack FROM release")
        assert {state for _, _, state, _, _ in rows} <= {"current", "old"}
        needed = {digest for row in rows for digest in row[3:]}
        assert self.files() == needed == self.db.objects()
        assert not os.listdir(self.path / "tmp")
        for digest in needed:
            assert hashlib.sha256((self.path / "objects" / digest).read_bytes()).hexdigest() == digest
        served = {row[1] for row in rows if row[2] == "current"}
        assert served == {row[0] for row in self.db._rows("SELECT name FROM service")} == {row[1] for row in rows}
        current = {row[0] for row in rows if row[2] == "current"}
        assert {release.id for release in self.snapshot("orchestrator")[1]} == current
        assert set(self.routes().values()) <= current


def site(text: bytes = b"<h1>hello</h1>") -> bytes:
    """A pack that the static server could serve."""
    output = io.BytesIO()
    write(output, [Source("/app/index.html", text)])
    return output.getvalue()


def app(name: str, *, hosts: str | None = None, more: str = "") -> str:
    hosts = f'["{name}.localhost"]' if hosts is None else hosts
    return f'name = "{name}"\nruntime = "asgi"\nentry = "m:app"\nhosts = {hosts}\n{more}'


def static(name: str) -> str:
    return f'name = "{name}"\nruntime = "static"\nhosts = ["{name}.localhost"]\n'
