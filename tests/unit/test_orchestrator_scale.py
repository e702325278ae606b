"""How many instances there should be, what each says of itself, and what an operator said: without I/O, or nearly."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fildes.kernel.loop import Loop
from fildes.orchestrator.life import TABLE, Said, Stage, after
from fildes.orchestrator.pace import Pace
from fildes.orchestrator.scale import Bounds, Seen, bounds, stands, starts, surplus, watches
from fildes.orchestrator.shelf import Shelf
from fildes.orchestrator.wishes import FROZEN, STOPPED, Wishes
from fildes.runtime.fullness import Fullness
from fildes.wire.catalogue import Release

EVERY = [Seen(*counts) for counts in itertools.product(range(4), repeat=4)]


def release(number: int = 1, runtime: str = "asgi", **limits: float) -> Release:
    return msgspec.convert(
        {
            "id": f"{number:012x}",
            "service": f"s{number}",
            "owner": "anna" if number % 2 else "bert",
            "runtime": runtime,
            "entry": "m:app",
            "hosts": [],
            "env": {},
            "grants": [],
            "limits": limits,
            "offers": [],
            "bundle": "b" * 64,
            "pack": "p" * 64,
            "abi": "py",
            "uid": 1,
            "state": "current",
        },
        Release,
    )


# — scale —


@pytest.mark.parametrize("standing", [0, 1, 3])
@pytest.mark.parametrize("waiting", [0, 1, 500])
def test_never_more_than_the_limit(standing: int, waiting: int):
    of = Bounds(3, standing, 4)
    for seen in EVERY:
        new = starts(of, seen, waiting)
        assert new >= 0
        assert new == 0 or seen.all + new <= 3


def test_nothing_waits_and_nobody_stands_by():
    for seen in EVERY:
        assert starts(Bounds(16), seen) == 0


def test_who_has_room_takes_what_waits():
    assert starts(Bounds(16), Seen(open=1, full=3), waiting=9) == 0
    assert starts(Bounds(16), Seen(starting=1, full=3), waiting=9) == 0


def test_a_crowd_is_met_in_few_steps():
    """Twice as many at each step, but not more than what waits could fill."""
    of, seen, steps = Bounds(16, 0, 1), Seen(full=1), 0
    while seen.all < 16:
        seen = Seen(full=seen.all + starts(of, seen, waiting=100))
        steps += 1
    assert steps == 4
    assert starts(Bounds(16, 0, 10), Seen(full=8), waiting=11) == 2
    assert starts(Bounds(16, 0, 10), Seen(full=8), waiting=1) == 1


def test_spares_stand_by_beyond_those_that_are_full():
    of = Bounds(4, 2)
    assert starts(of, Seen()) == 2
    assert starts(of, Seen(starting=1, open=1)) == 0
    assert starts(of, Seen(open=1, full=1)) == 1
    assert starts(of, Seen(full=3)) == 1
    assert surplus(of, Seen(open=3)) and not surplus(of, Seen(open=2, full=5))


def test_the_queue_is_looked_at_exactly_when_nobody_takes_from_it():
    for seen in EVERY:
        looks = watches(Bounds(3), seen)
        assert looks == (seen.open == 0 and seen.starting == 0 and seen.all < 3)
        if looks:  # what it shows is acted upon
            assert starts(Bounds(3), seen, 1) > 0


def test_bounds_of_releases():
    assert bounds(release(instances=4, spares=1, concurrency=7)) == Bounds(4, 1, 7)
    assert bounds(release(instances=2, spares=9)).standing == 2
    assert bounds(release(instances=4, spares=2), forks=False) == Bounds(1, 1, 64)
    assert bounds(release(runtime="service", instances=4)) == Bounds(1, 1, 64)
    assert bounds(release(runtime="service"), standing=False).standing == 0
    assert stands("service", 0) and stands("wsgi", 1)
    assert not stands("asgi", 0) and not stands("static", 5)


# — life —


def test_what_is_not_in_the_table_changes_nothing():
    for stage, said in itertools.product(Stage, Said):
        if (stage, said) not in TABLE:
            assert after(stage, said) is stage


def test_who_ends_never_comes_back():
    for said in Said:
        assert after(Stage.ENDING, said) is Stage.ENDING


def test_full_and_open_again():
    stage = Stage.STARTING
    seen = [stage := after(stage, said) for said in (Said.READY, Said.FULL, Said.OPEN, Said.RESTS, Said.IDLE)]
    assert seen == [Stage.OPEN, Stage.FULL, Stage.OPEN, Stage.OPEN, Stage.ENDING]


# — what an instance tells —


class Clock:
    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []

    def later(self, _: float, callback: Callable[[], object]) -> None:
        self.due.append(callback)

    def passes(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


def test_fullness_is_told_late_and_once():
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        clock = Clock()
        fullness = Fullness(writer, clock.later)
        for full in (True, False, True, False):  # a busy moment
            fullness.now(full)
        assert len(clock.due) == 1
        clock.passes()
        with pytest.raises(BlockingIOError):
            os.read(reader, 8)
        fullness.now(True)
        clock.passes()
        fullness.now(True)
        assert os.read(reader, 8) == b"F" and not clock.due
        fullness.now(False)
        clock.passes()
        assert os.read(reader, 8) == b"O"
        fullness.say()  # somebody asks
        assert os.read(reader, 8) == b"O"
    finally:
        os.close(reader)
        os.close(writer)


# — pace, shelf, wishes —


def test_turns_are_given_in_order_and_few_at_a_time():
    loop = Loop()
    pace, log = Pace(loop, 2), list[str]()

    async def work(name: str) -> None:
        await pace.take()
        log.append(f"{name} begins")
        await loop.sleep(0)
        log.append(f"{name} ends")
        pace.give()

    tasks = [loop.spawn(work(name)) for name in "abcde"]
    for task in tasks:
        loop.run_until(task)
    running = 0
    for line in log:
        running += 1 if line.endswith("begins") else -1
        assert running <= 2
    assert [line[0] for line in log if line.endswith("begins")] == list("abcde")
    loop.close()


def test_the_shelf_gives_what_was_put_on_it():
    shelf = Shelf()
    packed = [msgspec.Raw(msgspec.msgpack.encode(release(n, spares=n % 2))) for n in range(4)]
    assert shelf.replace(packed) == set()
    assert list(shelf.values()) == [release(n, spares=n % 2) for n in range(4)]
    assert shelf.of_service("s2") == release(2, spares=0) and shelf.of_service("s9") is None
    assert shelf.names("bert") == [("s0", f"{0:012x}"), ("s2", f"{2:012x}")]
    assert shelf.standing == {f"{1:012x}", f"{3:012x}"}
    shelf.put(release(9, "service"))
    assert f"{9:012x}" in shelf.standing
    shelf.remove(f"{9:012x}")
    assert shelf.replace(packed[:2]) == {f"{2:012x}", f"{3:012x}"} and len(shelf) == 2
    with pytest.raises(msgspec.MsgspecError):
        shelf.replace([msgspec.Raw(b"\x01")])
    assert len(shelf) == 2


def test_wishes_live_in_a_file(tmp_path: Path):
    errors: list[BaseException] = []
    path = tmp_path / "wishes.json"
    wishes = Wishes(str(path), errors.append)
    wishes.set("a", STOPPED, True)
    wishes.set("a", FROZEN, True)
    wishes.set("b", FROZEN, True)
    wishes.set("b", FROZEN, False)
    again = Wishes(str(path), errors.append)
    assert again.has("a", STOPPED) and again.has("a", FROZEN) and "b" not in again
    again.keep({"c"})
    assert json.loads(path.read_text()) == {}
    assert not errors


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": [[]]}', "\x00", '{"a": ["fly"]'])
def test_wishes_that_can_not_be_read_are_none(tmp_path: Path, text: str):
    errors: list[BaseException] = []
    (tmp_path / "wishes.json").write_text(text)
    wishes = Wishes(str(tmp_path / "wishes.json"), errors.append)
    assert len(errors) == 1
    assert not wishes.has("a", STOPPED)
    wishes.set("a", STOPPED, True)
    assert Wishes(str(tmp_path / "wishes.json"), errors.append).has("a", STOPPED) and len(errors) == 1
