"""The fd store's frames, its quotas and pages, and the ledger in which it outlives an image of init."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.init import ledger as ledgers
from fildes.init.deposits import Deposits
from fildes.init.ledger import Kept, Ledger, Line, Unsent
from fildes.kernel.fds import Fd
from fildes.wire import store as wire

KEYS = st.binary(min_size=1, max_size=wire.MAX_KEY)
BLOBS = st.binary(max_size=wire.MAX_BLOB)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I32 = st.integers(-(2**31), 2**31 - 1)
TEXTS = st.text(max_size=200)

TO_INIT = st.one_of(
    st.just(wire.Ready()),
    st.builds(wire.Deposit, KEYS, BLOBS),
    st.builds(wire.Drop, KEYS),
    st.builds(wire.Collect, U32, U64),
    st.builds(wire.ListProcesses, U32),
)
TO_DAEMON = st.one_of(
    st.builds(wire.Item, U32, U64, KEYS, BLOBS),
    st.builds(wire.End, U32, U64, st.booleans()),
    st.builds(wire.Failed, KEYS, TEXTS),
    st.builds(wire.Exited, I32, I32),
    st.builds(wire.Process, U32, I32, U32, st.sampled_from(wire.STATES), TEXTS),
    st.just(wire.Closing()),
)


@given(TO_INIT)
def test_frames_to_init_come_back(frame: wire.ToInit):
    data = wire.encode(frame)
    assert len(data) <= wire.MAX_FRAME
    again = wire.decode_to_init(data)
    assert (type(again), again) == (type(frame), frame)


@given(TO_DAEMON)
def test_frames_to_a_daemon_come_back(frame: wire.ToDaemon):
    data = wire.encode(frame)
    assert len(data) <= wire.MAX_FRAME
    again = wire.decode_to_daemon(data)
    assert (type(again), again) == (type(frame), frame)


@given(st.binary(max_size=64), TO_INIT, TO_DAEMON, st.integers(0, 40))
def test_any_bytes_are_a_frame_or_malformed(noise: bytes, one: wire.ToInit, other: wire.ToDaemon, cut: int):
    for data in (noise, wire.encode(one)[:cut], wire.encode(one) + noise, wire.encode(other)[:cut]):
        for decode in (wire.decode_to_init, wire.decode_to_daemon):
            try:
                decode(data)
            except wire.Malformed as error:
                assert "init" in str(error)


@pytest.mark.parametrize(
    ("key", "blob", "fds", "sentence"),
    [
        (b"", b"", 0, "a deposit's key has 1 to 128 bytes, not 0"),
        (b"k" * 129, b"", 0, "a deposit's key has 1 to 128 bytes, not 129"),
        (b"k", b"b" * 1025, 0, "a deposit's blob has at most 1024 bytes, not 1025; put more into a memfd"),
        (b"k", b"", 17, "a deposit holds at most 16 descriptors, not 17; use several keys"),
    ],
)
def test_what_can_not_be_a_deposit(key: bytes, blob: bytes, fds: int, sentence: str):
    with pytest.raises(ValueError, match=r"deposit") as refusal:
        wire.check(key, blob, fds)
    assert str(refusal.value) == sentence


def opened(count: int) -> list[Fd]:
    return [Fd.open("/dev/null", os.O_RDONLY) for _ in range(count)]


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_a_replacement_keeps_its_place_and_closes_what_it_replaced():
    deposits = Deposits(10, 10)
    first, second = opened(1), opened(2)
    old = first[0].fileno()
    assert deposits.put(b"a", b"1", first) is None
    assert deposits.put(b"b", b"", []) is None
    assert deposits.put(b"a", b"2", second) is None
    assert not is_open(old) or old in [fd.fileno() for fd in second]
    assert [(e.key, e.blob, len(e.fds)) for e in deposits] == [(b"a", b"2", 2), (b"b", b"", 0)]
    assert deposits.held == 2
    deposits.close()
    assert (len(deposits), deposits.held) == (0, 0)
    assert all(fd.closed for fd in second)


def test_what_is_refused_is_closed_and_changes_nothing():
    deposits = Deposits(2, 3)
    assert deposits.put(b"a", b"", opened(2)) is None
    refused = opened(2)
    assert deposits.put(b"b", b"", refused) == "it may deposit 3 descriptors in all: drop some first"
    assert all(fd.closed for fd in refused)
    assert deposits.put(b"b", b"", opened(1)) is None
    assert deposits.put(b"c", b"", []) == "its 2 deposits are all in use: drop one first"
    assert deposits.put(b"a", b"", opened(2)) is None
    deposits.drop(b"no such key")
    deposits.drop(b"a")
    assert (len(deposits), deposits.held) == (1, 1)
    deposits.close()


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 20)), max_size=60), st.integers(1, 7))
def test_pages_give_everything_once_and_in_order(steps: list[tuple[str, int]], size: int):
    deposits, model = Deposits(100, 0), {}
    for what, number in steps:
        key = b"%d" % number
        if what == "+":
            deposits.put(key, b"", [])
            model.setdefault(key, None)
        else:
            deposits.drop(key)
            model.pop(key, None)
    seen, after, more = [], 0, True
    while more:
        page, more = deposits.page(after, size)
        assert len(page) <= size
        seen += [entry.key for entry in page]
        after = page[-1].serial if page else after
    assert seen == list(model)


def test_the_ledger_comes_back_and_names_every_descriptor():
    line = Line(
        store=(3, 4),
        bus=(5, 6),
        pid=77,
        started=1.5,
        ready=True,
        restarts=2,
        ends=(1.0, 2.0),
        pause=0.5,
        deposits=(Kept(9, bytes(range(128)), bytes(range(256)) * 4, [7, 8]),),
        outbox=(Unsent("frame", b"W\xff\x00"), Unsent("page", b"", 1, 2, 3)),
    )
    ledger = Ledger("m:T", ["/x"], {"root": False}, None, {"lock": 10}, "fildes-x", True, True, {"alpha": line})
    again = ledgers.decode(ledgers.encode(ledger))
    assert again == ledger
    assert again.numbers() == {3, 4, 5, 6, 7, 8, 10}


def test_a_ledger_of_another_version():
    ledger = Ledger("m:T", [], {}, 5, {}, None)
    newer = ledgers.encode(ledger).replace(b'"served"', b'"word of a later version": [1], "served"')
    assert ledgers.decode(newer) == ledger
    with pytest.raises(ValueError, match="format 2; this version knows 1"):
        ledgers.decode(newer.replace(b'"format": 1', b'"format": 2'))
