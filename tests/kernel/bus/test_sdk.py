"""The sdk against the real bus: from threads and event loops, over restarts, and without a bus at all."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from stage import Kit, Stage, rights

from fildes import sdk
from fildes.capabilities.clock.driver import ClockPage
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds, seqpacket_pair
from fildes.kernel.loop import EPOLLIN
from fildes.sdk import program as programs
from fildes.sdk.channel import Channel
from fildes.wire import message
from fildes.wire.catalogue import Grant
from fildes.wire.conveyor import decode_inward

LEDGER = Grant("db", "connect", "ledger")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_program", None)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine to its end on an event loop of its own."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.fixture
def shop(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> programs.Program:
    """`sdk` is bound to an instance of shop, which may connect to ledger."""
    stage.publish(rights("shop", LEDGER), rights("ledger", offers=["shop"]))
    stage.start_bus()
    program = stage.program("shop", [LEDGER])
    monkeypatch.setattr(programs, "_program", program)
    return program


@pytest.fixture
def ledger(stage: Stage) -> Iterator[list[bytes]]:
    """Whoever is introduced to ledger gets an HTTP answer with what it asked; the requests' heads are kept."""
    heads: list[bytes] = []
    near, far = seqpacket_pair()
    stage.conveyors["r-ledger"] = (near, far)
    streams: list[Fd] = []

    def introduced(_: int) -> None:
        received = receive_with_fds(far.fileno())
        decode_inward(received.data, 1)
        (stream,) = received.fds
        streams.append(stream)
        stage.loop.watch(stream.fileno(), EPOLLIN, lambda _: answer(stream))

    def answer(stream: Fd) -> None:
        data = os.read(stream.fileno(), 65536)
        if not data:
            stage.loop.unwatch(stream.fileno())
            stream.close()
            return
        heads.append(data)
        body = b"you said " + data.split(b" ")[1]
        close = b"connection: close" in data.lower()
        head = b"HTTP/1.1 200 OK\r\nX-Kind: test\r\n"
        if close:
            os.write(
                stream.fileno(), head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            )
            stage.loop.unwatch(stream.fileno())
            stream.close()
        else:
            os.write(stream.fileno(), head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    stage.loop.watch(far.fileno(), EPOLLIN, introduced)
    yield heads
    stage.loop.unwatch(far.fileno())
    for stream in streams:
        if not stream.closed:
            stage.loop.unwatch(stream.fileno())
            stream.close()


# — what was opened before the start —


def test_what_was_given_at_the_start_needs_no_bus() -> None:
    page = ClockPage.make()
    timer, face = page.open()
    secret = memfd.sealed("secret", b"hunter2\n")
    urandom = Fd.open("/dev/urandom", os.O_RDONLY)
    grants = [Grant("clock", "clock"), Grant("dice", "random"), Grant("api-key", "secret")]
    with timer, face, secret, urandom:
        opened = {"clock": [timer.fileno(), face.fileno()], "dice": [urandom.fileno()], "api-key": [secret.fileno()]}
        sdk._bind(Kit(None, "shop", "r", grants, opened))
        assert abs(sdk.clock().time() - time.time()) < 0.01
        assert sdk.clock() is sdk.open("clock")
        assert len(sdk.random(16)) == 16
        assert sdk.secret("api-key") == b"hunter2\n"
        assert sdk.open("api-key").text() == "hunter2"  # type: ignore[union-attr]
        assert "hunter2" not in repr(sdk.open("api-key"))
        assert [grant.name for grant in sdk.grants()] == ["clock", "dice", "api-key"]
        with pytest.raises(sdk.Unavailable, match="is a secret, not a socket"):
            sdk.connect("api-key")
        with pytest.raises(sdk.Unavailable, match="without a channel"):
            sdk.open("db")
    page.close()


def test_outside_of_an_instance_it_says_where_it_works() -> None:
    for call in (sdk.grants, lambda: sdk.open("db"), sdk.clock, lambda: sdk.random(1), lambda: sdk.http("db")):
        with pytest.raises(sdk.Unavailable, match="from its start-up"):
            call()


# — asking —


def test_a_denial_is_a_sentence_with_the_lines_to_add(stage: Stage, shop: programs.Program) -> None:
    with pytest.raises(sdk.Denied) as denied:
        stage.call(lambda: sdk.connect("cache"))
    assert str(denied.value) == (
        "shop asked for 'cache' and was granted nothing of that name; it holds db\n\n"
        '[grants.cache]\nkind = "connect"\nto = "cache"\n'
    )
    with pytest.raises(sdk.Denied, match=r"\[grants.clock\]"):
        stage.call(sdk.clock)


def test_many_threads_at_once_each_get_their_own_answer(stage: Stage, shop: programs.Program) -> None:
    names = [f"n{number}" for number in range(200)]
    results: dict[str, str] = {}

    def ask(name: str) -> None:
        try:
            sdk.open(name)
        except sdk.Denied as denied:
            results[name] = denied.text

    def all_at_once() -> None:
        threads = [threading.Thread(target=ask, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    stage.call(all_at_once)
    assert {name: f"'{name}'" in text for name, text in results.items()} == dict.fromkeys(names, True)


def test_more_coroutines_than_a_channel_holds_are_all_answered(stage: Stage, shop: programs.Program, run: Run) -> None:
    """The bus reads only so many at a time; and nobody takes these connections, of which 64 may wait."""

    async def one() -> None:
        (await sdk.aio.connect("db")).close()

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(60)))

    stage.call(lambda: run(many()))


def test_threads_and_coroutines_share_a_channel(stage: Stage, shop: programs.Program, run: Run) -> None:
    async def both() -> None:
        async def mine(name: str) -> str:
            with pytest.raises(sdk.Denied) as denied:
                await sdk.aio.open(name)
            return str(denied.value)

        def theirs(name: str) -> str:
            with pytest.raises(sdk.Denied) as denied:
                sdk.open(name)
            return str(denied.value)

        for number in range(30):
            here, there = await asyncio.gather(mine(f"a{number}"), asyncio.to_thread(theirs, f"t{number}"))
            assert f"'a{number}'" in here and f"'t{number}'" in there

    stage.call(lambda: run(both()))


def test_a_cancelled_open_leaves_no_descriptor(stage: Stage, shop: programs.Program, run: Run) -> None:
    async def cancelled() -> int:
        (await sdk.aio.connect("db")).close()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(60):
            task = asyncio.ensure_future(sdk.aio.connect("db"))
            await asyncio.sleep(0.00005 * (number % 12))
            task.cancel()
            try:
                (await task).close()
            except asyncio.CancelledError:
                pass
            except sdk.Denied as denied:
                assert denied.code == "busy"  # nobody takes these connections
        # What comes for those that were given up is read with the next answer.
        for _ in range(3):
            with pytest.raises(sdk.Denied):
                await sdk.aio.open("nothing")
        return len(os.listdir("/proc/self/fd")) - before

    assert stage.call(lambda: run(cancelled())) <= 0


def test_a_bus_killed_while_coroutines_wait_is_only_a_pause(stage: Stage, shop: programs.Program, run: Run) -> None:
    async def ask() -> list[str]:
        async def one(number: int) -> str:
            with pytest.raises(sdk.Denied) as denied:
                await sdk.aio.open(f"n{number}")
            return denied.value.code

        return [code for _ in range(20) for code in await asyncio.gather(*(one(n) for n in range(10)))]

    kills = []

    def kill_sometimes() -> None:
        if len(kills) < 3:
            kills.append(1)
            assert stage.bus is not None
            stage.bus.restart()

    assert stage.call(lambda: run(ask()), kill_sometimes) == ["no-grant"] * 200
    assert len(kills) == 3


def test_a_bus_that_is_gone_for_good_is_an_error_not_a_spin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = seqpacket_pair()
    channel = Channel(ours.take())
    program = programs.Program(Kit(None, "shop", "r", []))
    program._channel = channel
    monkeypatch.setattr(programs, "_program", program)

    async def ask() -> None:
        task = asyncio.ensure_future(sdk.aio.open("db"))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(sdk.Unavailable, match="channel"):
            await asyncio.wait_for(task, 5)

    run(ask())
    with pytest.raises(sdk.Unavailable, match="channel to the bus"):
        sdk.open("db")
    channel.close()


def test_answers_that_are_no_messages_are_said_and_their_descriptors_closed() -> None:
    ours, theirs = seqpacket_pair()
    channel = Channel(ours.take())
    with theirs, open("/dev/null", "rb") as null:
        before = len(os.listdir("/proc/self/fd"))
        send_with_fds(theirs.fileno(), b"\xc1", [null.fileno()] * 3)
        with pytest.raises(sdk.Unavailable, match="not a message"):
            channel.ask("open", {"name": "db"})
        late = message.encode(message.Reply(999, message.pack(None)))
        send_with_fds(theirs.fileno(), late, [null.fileno()] * 3)
        answer = message.encode(message.Reply(2, message.pack(None)))
        os.write(theirs.fileno(), answer)
        assert channel.ask("open", {"name": "db"}) == ({}, [])
        assert len(os.listdir("/proc/self/fd")) == before
    channel.close()


# — HTTP to another service —


def test_http_client_over_an_introduced_stream(stage: Stage, shop: programs.Program, ledger: list[bytes]) -> None:
    def talk() -> list[tuple[int, bytes]]:
        client = sdk.http("db")
        answers = []
        for path in ("/a", "/b"):  # kept alive: one stream
            client.request("GET", path)
            response = client.getresponse()
            answers.append((response.status, response.read()))
        client.close()
        return answers

    assert stage.call(talk) == [(200, b"you said /a"), (200, b"you said /b")]
    assert b"Host: ledger\r\n" in ledger[0]


def test_fetch_in_a_coroutine(stage: Stage, shop: programs.Program, ledger: list[bytes], run: Run) -> None:
    async def talk() -> Any:
        return await asyncio.gather(
            *(sdk.fetch("db", f"/{n}", method="POST", body=b"{}", headers={"X-Trace": str(n)}) for n in range(20))
        )

    answers = stage.call(lambda: run(talk()))
    assert [answer.body for answer in answers] == [b"you said /%d" % n for n in range(20)]
    assert answers[0].status == 200 and answers[0].headers["x-kind"] == "test"
    assert all(head.endswith(b"\r\n\r\n{}") and b"content-length: 2" in head for head in ledger)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sdk.fetch("db", "/a b"),
        lambda: sdk.fetch("db", "/a\r\nX: y"),
        lambda: sdk.fetch("db", "/", method="GET / HTTP/1.1\r\nX"),
        lambda: sdk.fetch("db", "/", headers={"x": "a\nb"}),
    ],
)
def test_fetch_sends_no_lines_that_it_was_not_asked_to(
    shop: programs.Program, call: Callable[[], Coroutine[Any, Any, Any]]
) -> None:
    with pytest.raises(ValueError, match="where none may be"):
        asyncio.run(call())
