"""The bus in a child process, under its profile, and the test as everybody around it."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest
from stage import Stage, rights

from fildes.capabilities.secret.driver import open_secret
from fildes.daemon.peer import Asked, Empty, Peer, Refused
from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN
from fildes.sdk.errors import Denied
from fildes.wire import bus as wire
from fildes.wire import drivers, message
from fildes.wire.catalogue import Grant, Pack, Packed, Rights
from fildes.wire.orchestrator import GetConveyor

LEDGER = Grant("db", "connect", "ledger")


class Text(msgspec.Struct):
    text: str = ""


# — daemons among themselves —


def test_a_request_reaches_the_daemon_named_by_the_verb_and_the_answer_returns_with_its_fds(stage: Stage) -> None:
    stage.start_bus()

    async def pack(asked: Asked[Pack]) -> tuple[Packed, list[Fd]]:
        assert (asked.body.release, asked.sender) == ("abc", "orchestrator")
        reader, writer = (Fd(number) for number in os.pipe())
        with writer:
            os.write(writer.fileno(), b"the pack")
        return Packed(8), [reader]

    stage.peers["catalogue"].on("catalogue.pack", Pack, pack)
    answer = stage.run(stage.peers["orchestrator"].ask("catalogue.pack", Pack("abc"), reply=Packed))
    with answer.fds[0] as fd:
        assert (answer.body.size, os.read(fd.fileno(), 100)) == (8, b"the pack")
    assert not stage.errors


def test_what_the_routes_do_not_list_is_refused_and_said(stage: Stage) -> None:
    stage.start_bus()
    for verb in ("catalogue.publish", "catalogue.policy_set", "nobody.knows", "bus", "shared.open.more", ""):
        with pytest.raises(Refused, match="may not ask") as refused:
            stage.run(stage.peers["log"].ask(verb))
        assert refused.value.code == "not-allowed"


def test_a_daemon_that_this_node_does_not_run_is_said_to_be_missing(stage: Stage) -> None:
    stage.start_bus()
    with pytest.raises(Refused, match="runs no inspect") as refused:
        stage.run(stage.peers["debug"].ask("inspect.fds", drivers.Inspect([1])))
    assert refused.value.code == "unreachable"


def test_events_carry_their_sender_and_a_refused_one_is_told_to_it(stage: Stage) -> None:
    stage.start_bus(("catalogue", "orchestrator", "debug", "log", "web"))
    got: list[tuple[str, str]] = []
    stage.peers["web"].on_event("web.died", Text, lambda asked: got.append((asked.sender, asked.body.text)))
    undelivered: list[wire.Undeliverable] = []
    for name in ("orchestrator", "log"):
        stage.peers[name].on_event(
            "bus.undeliverable", wire.Undeliverable, lambda asked: undelivered.append(asked.body)
        )
    stage.peers["orchestrator"].tell("web.died", Text("boom"))
    stage.peers["log"].tell("web.died", Text("forged"))
    stage.until(lambda: got and undelivered, "the event, and the complaint about the other")
    assert got == [("orchestrator", "boom")]
    assert (undelivered[0].verb, undelivered[0].to) == ("web.died", "")


def test_a_daemon_that_does_not_read_is_an_error_to_who_asks_and_nobody_elses_trouble(stage: Stage) -> None:
    bus = stage.start_bus(("catalogue", "orchestrator", "debug", "log"))
    stage.loop.unwatch(stage.near["log"].fileno())  # the log is stuck
    refusals: list[wire.Undeliverable] = []
    stage.peers["debug"].on_event("bus.undeliverable", wire.Undeliverable, lambda asked: refusals.append(asked.body))
    text = Text("x" * 60_000)
    for _ in range(400):
        stage.peers["debug"].tell("log.append", text)
    stage.until(lambda: refusals, "the first event that found the queue full")
    assert refusals[0].text == "its queue is full"
    assert stage.status().channels == 0  # everybody else is served
    assert bus.alive()


def test_a_killed_bus_forgets_nothing_that_daemons_wait_for(stage: Stage) -> None:
    bus = stage.start_bus()
    calls: list[str] = []

    async def slow(asked: Asked[Pack]) -> Packed:
        calls.append(asked.body.release)
        if len(calls) == 1:
            bus.kill()  # in the middle: the question has arrived, the answer has not been given
        return Packed(len(calls))

    stage.peers["catalogue"].on("catalogue.pack", Pack, slow)
    task = stage.loop.spawn(stage.peers["orchestrator"].ask("catalogue.pack", Pack("abc"), reply=Packed))
    task.when_done(lambda: None)
    stage.until(lambda: calls, "the question to arrive")
    bus.start()
    stage.until(lambda: task.done, "the answer, over the new bus")
    assert task.result().body.size == 1
    assert calls == ["abc"]  # it was sent again under the same id, and known as the same


def test_a_request_to_a_killed_daemon_is_sent_to_its_successor(stage: Stage) -> None:
    """The bus keeps what was not answered, and a daemon that starts says Hello."""
    stage.start_bus()
    near = stage.near["catalogue"].fileno()
    lost: list[bytes] = []
    stage.loop.unwatch(near)
    stage.loop.watch(near, EPOLLIN, lambda _: lost.append(receive_with_fds(near).data))
    task = stage.loop.spawn(stage.peers["orchestrator"].ask("catalogue.pack", Pack("abc"), reply=Packed))
    task.when_done(lambda: None)
    stage.until(lambda: any(b"catalogue.pack" in data for data in lost), "the question to be lost with its reader")

    async def answer(asked: Asked[Pack]) -> Packed:
        return Packed(7)

    stage.loop.unwatch(near)
    successor = Peer(stage.loop, stage.near["catalogue"])
    successor.on("catalogue.pack", Pack, answer)
    send_with_fds(near, message.encode(message.Hello(message.VERSION, 0)))
    stage.until(lambda: task.done, "the answer of the successor")
    assert task.result().body.size == 7


# — tenants —


def test_connect_makes_a_stream_between_two_services_and_the_bus_is_out_of_the_way(stage: Stage) -> None:
    stage.publish(rights("shop", LEDGER), rights("ledger", offers=["shop"]))
    bus = stage.start_bus()
    shop = stage.program("shop", [LEDGER])
    with stage.call(lambda: shop.open("db")) as sock:
        assert isinstance(sock, socket.socket)
        caller, end = stage.introduced("r-ledger")
        assert caller == "shop"
        with end as theirs:
            bus.kill()  # what was introduced needs it no more
            sock.send(b"hello")
            assert os.read(theirs.fileno(), 100) == b"hello"
            os.write(theirs.fileno(), b"and to you")
            assert sock.recv(100) == b"and to you"


def test_introduced_streams_carry_no_descriptors_where_the_kernel_can_see_to_that(stage: Stage) -> None:
    stage.publish(rights("shop", LEDGER), rights("ledger", offers=["shop"]))
    stage.start_bus()
    shop = stage.program("shop", [LEDGER])
    with stage.call(lambda: shop.open("db")) as sock, stage.introduced("r-ledger")[1] as theirs:
        if not _has_passrights():
            pytest.skip("SO_PASSRIGHTS is there from Linux 6.16 on")
        for one in (sock.fileno(), theirs.fileno()):
            with pytest.raises(PermissionError):
                send_with_fds(one, b"x", [0])


def _has_passrights() -> bool:
    one, other = socket.socketpair()
    with one, other:
        try:
            one.setsockopt(socket.SOL_SOCKET, 83, 0)
        except OSError:
            return False
        return True


@pytest.mark.parametrize(
    ("grants", "others", "name", "code", "grant"),
    [
        ([], [], "db", "no-grant", '[grants.db]\nkind = "connect"\nto = "db"'),
        ([], [], "clock", "no-grant", "[grants.clock]"),
        ([LEDGER], [], "db", "no-service", None),
        ([LEDGER], [rights("ledger", offers=["bank"])], "db", "not-offered", '[offers]\nto = ["shop"]'),
        ([Grant("files", "files")], [], "files", "not-opened", None),
    ],
)
def test_a_refusal_names_the_line_that_would_have_allowed_it(
    stage: Stage, grants: list[Grant], others: list[Rights], name: str, code: str, grant: str | None
) -> None:
    stage.publish(rights("shop", *grants), *others)
    stage.start_bus()
    shop = stage.program("shop", grants)
    with pytest.raises(Denied) as denied:
        stage.call(lambda: shop.open(name))
    assert (denied.value.code, denied.value.grant) == (code, grant)
    body = wire.AskDenials("shop")
    (kept,) = stage.run(stage.peers["debug"].ask("bus.denials", body, reply=wire.Denials)).body.denials
    assert (kept.service, kept.asked, kept.code, kept.grant) == ("shop", name, code, grant)
    assert kept.text == denied.value.args[0].partition("\n\n")[0]
    stage.until(lambda: stage.log == ["bus"], "the program's log to hear of it")


def test_a_kind_of_a_driver_is_opened_by_it_for_the_release_that_asked(stage: Stage) -> None:
    key = Grant("key", "secret")
    stage.publish(rights("shop", key))
    stage.start_bus()
    seen: list[drivers.Open] = []

    async def opened(asked: Asked[drivers.Open]) -> tuple[drivers.Opened, list[Fd]]:
        assert asked.sender == "bus"
        seen.append(asked.body)
        return drivers.Opened("secret"), [open_secret(b"swordfish\n")]

    stage.peers["catalogue"].on("catalogue.open", drivers.Open, opened)
    shop = stage.program("shop", [key])
    secret = stage.call(lambda: shop.open("key"))
    assert secret.text() == "swordfish"
    assert seen == [drivers.Open("secret", "key", {}, "r-shop", "shop", "anna")]
    assert stage.call(lambda: shop.open("key")) is secret  # asked once
    os.close(secret._fd)


def test_inspect_tells_a_program_its_own_grants(stage: Stage) -> None:
    stage.publish(rights("shop", LEDGER, Grant("clock", "clock")))
    stage.start_bus()
    shop = stage.program("shop", [])
    body, fds = stage.call(lambda: shop.channel.ask("inspect", {}))
    assert (body["service"], body["release"], body["instance"], fds) == ("shop", "r-shop", "1", [])
    assert body["grants"] == [
        {"name": "db", "kind": "connect", "to": "ledger"},
        {"name": "clock", "kind": "clock", "to": None},
    ]


def test_a_new_release_changes_where_connections_lead_and_the_old_one_keeps_its_rights(stage: Stage) -> None:
    stage.publish(rights("shop", LEDGER), rights("ledger", offers=["shop"]))
    stage.start_bus()
    old = stage.program("shop", [LEDGER])
    stage.call(lambda: old.open("db")).close()
    stage.publish(rights("shop", release="r-shop-2"), rights("ledger", offers=["shop"], release="r-ledger-2"))
    stage.until(lambda: stage.status().snapshot == stage.number, "the bus to hear of it")
    stage.call(lambda: old.open("db")).close()  # it drains, and may do so with what it was granted
    caller, end = stage.introduced("r-ledger-2")
    assert caller == "shop"
    end.close()
    stage.bus.restart()
    stage.call(lambda: old.open("db")).close()  # known to a new bus from init's store
    new = stage.program("shop", release="r-shop-2")
    with pytest.raises(Denied, match="granted nothing"):
        stage.call(lambda: new.open("db"))


def test_a_candidate_has_the_rights_that_the_orchestrator_says(stage: Stage) -> None:
    stage.publish(rights("ledger", offers=["shop"]))
    stage.start_bus()
    warm = stage.program("shop", [LEDGER], release="r-new", said=[LEDGER])
    stage.call(lambda: warm.open("db")).close()
    unknown = stage.program("shop", [], release="r-unknown")
    with pytest.raises(Denied, match="not served any more"):
        stage.call(lambda: unknown.open("db"))


def test_a_missed_change_is_made_good_by_a_new_snapshot(stage: Stage) -> None:
    stage.publish(rights("shop"))
    stage.start_bus()
    stage.rights = [rights("shop", LEDGER), rights("ledger", offers=["shop"])]
    stage.number += 5  # changes of which the bus heard nothing
    stage.publish(rights("other"))
    stage.until(lambda: stage.status().snapshot == stage.number, "the bus to subscribe again")
    shop = stage.program("shop", [LEDGER])
    stage.call(lambda: shop.open("db")).close()


def test_a_killed_bus_keeps_the_tenants_channels_and_answers_what_they_had_asked(stage: Stage) -> None:
    stage.publish(rights("shop", LEDGER), rights("ledger", offers=["shop"]))
    bus = stage.start_bus()
    shop = stage.program("shop", [LEDGER])
    stage.call(lambda: shop.open("db")).close()
    asked: list[int] = []

    async def die_first(body: Asked) -> tuple[Empty, list[Fd]]:
        asked.append(1)
        if len(asked) == 1:
            bus.kill()
        return Empty(), [stage.conveyors["r-ledger"][0].dup()]

    bus.restart()  # forgets the conveyor
    stage.peers["orchestrator"].on("orchestrator.conveyor", GetConveyor, die_first)

    def restart_when_dead() -> None:
        if asked and not bus.pid:
            bus.start()

    stage.call(lambda: shop.open("db"), restart_when_dead).close()
    assert len(asked) == 2
    assert stage.status().channels == 1
    shop.channel.close()
    stage.until(lambda: stage.status().channels == 0, "the bus to notice that the program is gone")
    stage.until(lambda: len(bus.deposits) == 0, "its channel to leave the store")


def test_close_ends_every_channel_of_a_release_and_of_no_other(stage: Stage) -> None:
    stage.publish(rights("shop", LEDGER), rights("ledger"))
    bus = stage.start_bus()
    ends = [stage.channel("r-shop", "shop") for _ in range(3)]
    other = stage.channel("r-ledger", "ledger")
    assert len(bus.deposits) == 6  # four channels, two releases' rights
    stage.run(stage.peers["orchestrator"].ask("bus.close", wire.Close("r-shop")))
    for end in ends:
        with end, pytest.raises(ConnectionResetError):
            _read_to_end(end)
    assert stage.status().channels == 1
    stage.until(lambda: len(bus.deposits) == 2, "the store to be told")
    other.close()


def _read_to_end(end: Fd) -> None:
    while receive_with_fds(end.fileno()).data:
        pass
    raise ConnectionResetError
