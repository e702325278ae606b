"""A tenant that does its worst on its channel: it harms itself, and nobody else."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "kernel" / "bus"))

import contextlib

from stage import Stage, rights

from fildes.bus.quota import STRIKES, TENANT
from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds
from fildes.wire import drivers, message, tenant
from fildes.wire.catalogue import Grant

DB = Grant("db", "connect", "ledger")


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    stage.publish(rights("mallory", DB), rights("alice", DB), rights("ledger", offers=["mallory", "alice"]))
    stage.start_bus()
    try:
        yield stage
        assert stage.bus is not None and stage.bus.alive(), "the bus died of it"
        alice = stage.program("alice", [DB])
        with stage.call(lambda: alice.open("db")):
            pass
    finally:
        stage.close()


class Mallory:
    """The raw end of an instance's channel."""

    def __init__(self, stage: Stage, release: str = "r-mallory") -> None:
        self.stage = stage
        self.end = stage.channel(release, "mallory")
        os.set_blocking(self.end.fileno(), False)

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> bool:
        """False: the queue is full."""
        try:
            send_with_fds(self.end.fileno(), data, fds)
        except BlockingIOError:
            return False
        return True

    def request(self, number: int, name: str = "db") -> bool:
        return self.send(tenant.request(number, "open", {"name": name}))

    def answers(self, count: int) -> list[tenant.Answer]:
        """The next `count` answers; descriptors are closed, Hellos passed over."""
        got: list[tenant.Answer] = []

        def more() -> bool:
            try:
                while len(got) < count:
                    try:
                        received = receive_with_fds(self.end.fileno(), message.MAX_DATAGRAM)
                    except ConnectionResetError:  # told once; what was sent before it can still be read
                        continue
                    if not received.data:
                        got.append(tenant.Answer("end"))
                        continue
                    received.close()
                    answer = tenant.answer(received.data)
                    if answer.kind != "hello":
                        got.append(answer)
            except BlockingIOError:
                return False
            return True

        self.stage.until(more, f"{count} answers")
        return got

    def nothing_comes(self) -> None:
        self.stage.status()
        with pytest.raises(BlockingIOError):
            receive_with_fds(self.end.fileno())

    def __enter__(self) -> Mallory:
        return self

    def __exit__(self, *_: object) -> None:
        self.end.close()


@pytest.fixture
def mallory(stage: Stage) -> Iterator[Mallory]:
    with Mallory(stage) as mallory:
        yield mallory
    while stage.conveyors and not _drain(stage.conveyors["r-ledger"][1]):
        pass


def _drain(conveyor: Fd) -> bool:
    os.set_blocking(conveyor.fileno(), False)
    try:
        receive_with_fds(conveyor.fileno()).close()
    except BlockingIOError:
        return True
    return False


def envelope(**fields: object) -> bytes:
    return msgspec.msgpack.encode({"type": "request", "id": 1, "verb": "open", "body": {"name": "db"}} | fields)


MALFORMED = {
    "zeros": b"\0" * 100,
    "ones": b"\xff" * 100,
    "an unknown field": envelope(extra=1),
    "an unknown type": envelope(type="root"),
    "no id": msgspec.msgpack.encode({"type": "request", "verb": "open", "body": {}}),
    "a float for an id": envelope(id=1.5),
    "an id of 64 bits": envelope(id=2**64 - 1),
    "an id above the limit": envelope(id=message.MAX_ID + 1),
    "the id 0": envelope(id=0),
    "a negative id": envelope(id=-1),
    "deep nesting": b"\x91" * 4000,
    "a deeply nested body": b"\x84\xa4type\xa7request\xa2id\x01\xa4verb\xa4open\xa4body" + b"\x91" * 3000 + b"\xc0",
    "a hello": message.encode(message.Hello(1, 1)),
    "a reply": message.encode(message.Reply(1, msgspec.Raw(b"\x80"))),
    "a failure": message.encode(message.Failure(1, "x", "y")),
    "an event": message.encode(message.Event("web.died", msgspec.Raw(b"\x80"), "orchestrator")),
    "too large": tenant.pack({"type": "request", "id": 1, "verb": "open", "body": {"name": "x" * 5000}, "sender": ""}),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_what_is_no_request_gets_an_error_and_the_channel_goes_on(mallory: Mallory, data: bytes) -> None:
    assert mallory.send(data)
    (answer,) = mallory.answers(1)
    assert answer.kind == "failure"
    assert answer.code in ("malformed", "too-large")
    assert mallory.request(7)
    assert mallory.answers(1)[0] == tenant.Answer("reply", 7, {"kind": "connect", "name": "db"})


def test_after_some_of_them_the_channel_is_closed(stage: Stage, mallory: Mallory) -> None:
    for _ in range(STRIKES + 10):
        try:
            mallory.send(b"garbage")
        except (BrokenPipeError, ConnectionResetError):
            break
    assert [each.kind for each in mallory.answers(STRIKES)] == ["failure"] * (STRIKES - 1) + ["end"]
    stage.until(lambda: stage.status().channels == 0, "the channel to be gone")


def test_random_bytes_and_changed_requests(stage: Stage) -> None:
    rng = random.Random(20260131)
    good = tenant.request(3, "open", {"name": "db"})
    for _ in range(30):
        with Mallory(stage) as mallory:
            for _ in range(20):
                data = bytearray(good)
                for _ in range(rng.randrange(1, 6)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                try:
                    mallory.send(bytes(data) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 300)))
                except (BrokenPipeError, ConnectionResetError):
                    break
            stage.status()
        _drain(stage.conveyors["r-ledger"][1]) if stage.conveyors else None
    if stage.conveyors:
        while not _drain(stage.conveyors["r-ledger"][1]):
            pass


def test_an_empty_datagram_is_a_goodbye(stage: Stage, mallory: Mallory) -> None:
    mallory.send(b"")
    stage.until(lambda: stage.status().channels == 0, "the channel to be gone")


@pytest.mark.parametrize(
    "verb", ["bus.channel", "catalogue.publish", "shared.open", "orchestrator.stop", "offer", "", "x" * 900]
)
def test_no_verb_but_its_own_is_answered(mallory: Mallory, verb: str) -> None:
    mallory.send(tenant.request(1, verb, {}))
    (answer,) = mallory.answers(1)
    assert (answer.kind, answer.id, answer.code) == ("failure", 1, "unknown-verb")


@pytest.mark.parametrize(
    "body", [{}, {"name": 1}, {"name": "db", "as": "alice"}, {"release": "r-alice"}, [], None, "db"]
)
def test_a_body_that_is_not_its_verbs_is_malformed(mallory: Mallory, body: object) -> None:
    mallory.send(envelope(body=body))
    (answer,) = mallory.answers(1)
    assert (answer.id, answer.code) == (1, "malformed")


def test_nobody_becomes_another_by_saying_so(stage: Stage, mallory: Mallory) -> None:
    for sender in ("orchestrator", "bus", "release:r-alice"):
        mallory.send(envelope(sender=sender))
        assert mallory.answers(1)[0].kind == "reply"
        caller, end = stage.introduced("r-ledger")
        end.close()
        assert caller == "mallory"


def test_descriptors_from_a_tenant_do_not_arrive(stage: Stage, mallory: Mallory) -> None:
    assert stage.bus is not None
    before = stage.bus.open_fds()
    refused = 0
    for number in range(1, 40):
        try:
            mallory.send(tenant.request(number, "inspect", {}), (0, 1, 2) * 80)
        except PermissionError:  # SO_PASSRIGHTS, 6.16
            refused += 1
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            break
    stage.until(lambda: stage.bus.open_fds() <= before, "the bus to have closed what came")
    if refused == 0:
        assert {each.code for each in mallory.answers(3)} <= {"no-fds", "too-large"}


def test_an_id_in_flight_twice_is_answered_once_and_one_answered_may_come_again(stage: Stage) -> None:
    held: list[object] = []

    async def slow(asked: object) -> tuple[object, list[Fd]]:
        held.append(asked)
        promise = stage.loop.promise()
        held.append(promise)
        await promise
        return None, [Fd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))]

    stage.publish(rights("mallory", Grant("clock", "clock"), release="r-2"))
    stage.peers["shared"].on("shared.open", drivers.Open, slow)
    stage.until(lambda: stage.status().snapshot == stage.number, "the bus to hear of it")
    with Mallory(stage, "r-2") as other:
        for _ in range(10):
            other.request(5, "clock")
        stage.until(lambda: held, "the driver to be asked")
        stage.status()
        assert len(held) == 2
        held[1].resolve(None)  # type: ignore[attr-defined]
        assert [each.id for each in other.answers(1)] == [5]
        other.nothing_comes()
        other.send(tenant.request(5, "inspect", {}))
        assert other.answers(1)[0].body["service"] == "mallory"


def test_answers_that_are_not_read_stop_the_asker_and_hold_few_descriptors(stage: Stage, mallory: Mallory) -> None:
    assert stage.bus is not None
    before = stage.bus.open_fds()
    sent = 0
    for number in range(1, 5000):
        if not mallory.request(number):
            break
        sent += 1
        if sent % 50 == 0:
            stage.status()  # the bus has had its turn
    assert sent < 600, "the queue never filled: the bus goes on reading from one that does not"
    assert stage.bus.open_fds() <= before + TENANT.queued_fds + 2
    answers = mallory.answers(sent)
    assert sorted({each.id for each in answers}) == list(range(1, sent + 1))
    replies = sum(each.kind == "reply" for each in answers)
    assert TENANT.unread_fds <= replies < 80
    assert {each.code for each in answers} == {"", "busy"}


def test_connections_that_nobody_takes_do_not_pile_up(stage: Stage, mallory: Mallory) -> None:
    """The called service sleeps: what waits for it is bounded, and the caller is told."""
    codes: list[str] = []
    for number in range(1, 300):
        assert mallory.request(number)
        codes.append(mallory.answers(1)[0].code)
    assert codes[:64] == [""] * 64
    assert codes[64:] == ["busy"] * (299 - 64)
    stage.introduced("r-ledger")[1].close()
    assert mallory.request(300)
    assert mallory.answers(1)[0].kind == "reply"


def test_a_spammer_slows_itself_only(stage: Stage) -> None:
    """Another's requests are answered as fast as before, while one sends as fast as the kernel lets it."""
    alice = stage.program("alice", [DB])

    def worst_of(count: int) -> float:
        worst = 0.0
        for _ in range(count):
            began = time.monotonic()
            alice.channel.ask("inspect", {})
            worst = max(worst, time.monotonic() - began)
        return worst

    alone = stage.call(lambda: worst_of(300))
    with Mallory(stage) as mallory:
        spam = os.fork()
        if spam == 0:
            _spam(mallory.end.fileno())
        try:
            stage.until(lambda: _cpu(spam) > 1, "the spam to flow")
            beset = stage.call(lambda: worst_of(300))
            taken = _cpu(stage.bus.pid) if stage.bus else 0
            end = time.monotonic() + 1
            stage.until(lambda: time.monotonic() > end, "a second")
            taken = (_cpu(stage.bus.pid) if stage.bus else 0) - taken
        finally:
            os.kill(spam, 9)
            os.waitpid(spam, 0)
    assert beset < max(0.05, 20 * alone)
    assert taken < 75, f"the spam keeps the bus busy for {taken} % of a second"


def _spam(end: int) -> None:
    """In a process of its own; it reads its answers, as a clever one would."""
    try:
        request = tenant.request(1, "inspect", {})
        sock = socket.socket(fileno=end)
        sock.setblocking(False)
        while True:
            with contextlib.suppress(BlockingIOError):
                sock.send(request)
            try:
                while sock.recv(65536):
                    pass
            except BlockingIOError:
                pass
    finally:
        os._exit(0)


def _cpu(pid: int) -> int:
    """Hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_ten_thousand_opens_leave_no_descriptor_behind(stage: Stage) -> None:
    assert stage.bus is not None
    alice = stage.program("alice", [DB])
    conveyor: list[int] = []

    def opens(count: int) -> None:
        for _ in range(count):
            alice.open("db").close()  # type: ignore[union-attr]
            if not conveyor:
                conveyor.append(stage.conveyors["r-ledger"][1].fileno())
            receive_with_fds(conveyor[0]).close()

    stage.call(lambda: opens(1))
    before, mine = stage.bus.open_fds(), len(os.listdir("/proc/self/fd"))
    stage.call(lambda: opens(10_000))
    stage.until(lambda: stage.bus.open_fds() <= before, "the bus to hold no more than before")
    assert len(os.listdir("/proc/self/fd")) <= mine


def test_channels_that_come_and_go_leave_nothing_behind(stage: Stage) -> None:
    assert stage.bus is not None
    stage.status()
    before = stage.bus.open_fds()
    for _ in range(500):
        stage.channel("r-mallory", "mallory").close()
    stage.until(lambda: stage.status().channels == 0, "all channels to be gone")
    stage.until(lambda: len(stage.bus.deposits) == 0, "the store to be empty")
    assert stage.bus.open_fds() <= before
