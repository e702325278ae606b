"""When to start a daemon again, and in which order to end them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.init import table
from fildes.init.policy import CALM, LONGEST_PAUSE, Record, after_end, closing_order, describe_status
from fildes.init.supervisor import CLOSING_TIME


def end(record: Record, now: float, *, started: float = 0.0, clean: bool = False, restart: str = "permanent"):
    return after_end(record, started=started, now=now, clean=clean, restart=restart, intensity=3, period=10.0)


def test_within_its_intensity_it_is_started_at_once():
    record = Record()
    for now in (1.0, 2.0, 3.0):
        record, after, exceeded = end(record, now, started=now)
        assert (after, exceeded) == (0.0, False)


def test_beyond_it_with_pauses_that_double_up_to_a_limit():
    record, pauses = Record(), []
    now = 0.0
    for _ in range(14):
        record, after, _ = end(record, now, started=now)
        pauses.append(after)
        now += after
    assert pauses == [0, 0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30]


def test_ends_far_apart_never_count_together():
    record = Record()
    for number in range(50):
        record, after, _ = end(record, number * 10.0, started=number * 10.0)
        assert after == 0


def test_a_calm_run_clears_the_record():
    record = Record((1.0, 2.0, 3.0), pause=16.0)
    assert end(record, 4.0 + CALM, started=4.0).record == Record((4.0 + CALM,))
    assert end(record, 3.0 + CALM, started=4.0).after == LONGEST_PAUSE


@pytest.mark.parametrize(
    ("restart", "clean", "again"),
    [
        ("permanent", True, True),
        ("permanent", False, True),
        ("transient", True, False),
        ("transient", False, True),
        ("temporary", True, False),
        ("temporary", False, False),
    ],
)
def test_the_restart_type_decides(restart: str, clean: bool, again: bool):
    assert (end(Record(), 1.0, clean=clean, restart=restart).after is not None) is again


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 8), st.floats(0.5, 20))
def test_never_more_than_the_intensity_at_once_within_a_period(gaps: list[float], intensity: int, period: float):
    record, now, at_once = Record(), 0.0, []
    for gap in gaps:
        now += gap
        record, after, exceeded = after_end(
            record, started=now, now=now, clean=False, restart="permanent", intensity=intensity, period=period
        )
        assert len(record.ends) <= len(gaps)
        assert exceeded is (after > 0)
        if after == 0:
            at_once.append(now)
    for first in at_once:
        assert sum(first < other <= first + period for other in at_once) <= intensity


def test_words_for_a_status():
    assert describe_status(9) == "by signal 9"
    assert describe_status(3 << 8) == "with status 3"


def test_doors_close_first_and_the_log_last():
    order = closing_order([daemon.name for daemon in table.DAEMONS])
    assert order[0] == "debug"
    assert order[-1] == "log"
    assert order.index("web") < order.index("orchestrator") < order.index("catalogue")


def test_the_table_is_sound():
    daemons = table.load(table.NAME)
    assert [d.name for d in daemons] == [
        *("log", "shared", "net", "storage", "inspect", "catalogue"),
        *("bus", "orchestrator", "static", "web", "publish", "debug"),
    ]
    uids = [d.uid for d in daemons if d.uid is not None]
    assert len(set(uids)) == len(uids) == len(daemons) - 1
    assert {d.restart for d in daemons} <= {"permanent", "transient", "temporary"}
    assert all(len(f"fd-{d.name}".encode()) <= 15 for d in daemons)  # a process name as `ps` shows it
    assert max(d.shutdown for d in daemons) < CLOSING_TIME < 3


@pytest.mark.parametrize("name", ["no.such.module:T", "fildes.init.table:NONE", "fildes.init.table:NAME", "x"])
def test_a_table_that_is_none_is_refused(name: str):
    with pytest.raises(LookupError, match=r"table of daemons"):
        table.load(name)
