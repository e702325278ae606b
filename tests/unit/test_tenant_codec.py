"""A tenant's own codec against msgspec's: the same bytes and values; from hostile bytes Malformed, and no worse."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.wire import message, tenant

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20), max_leaves=40
)


@given(values)
def test_it_writes_what_msgspec_writes_and_reads_it_back(value: Any) -> None:
    data = tenant.pack(value)
    assert data == msgspec.msgpack.encode(value)
    assert tenant.unpack(data) == value
    assert msgspec.msgpack.decode(data) == value


@pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_length_that_has_a_form_of_its_own(size: int) -> None:
    for value in ("x" * size, b"x" * size, [None] * size, {str(i): i for i in range(size)}):
        assert tenant.pack(value) == msgspec.msgpack.encode(value)
        assert tenant.unpack(tenant.pack(value)) == value


@pytest.mark.parametrize("value", [127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1])
def test_every_width_of_an_integer(value: int) -> None:
    for number in (value, -value - 1 if value < 2**63 else -(2**63), -32, -33, -128, -129):
        assert tenant.pack(number) == msgspec.msgpack.encode(number)
        assert tenant.unpack(tenant.pack(number)) == number


def test_nan_goes_through_too() -> None:
    assert math.isnan(tenant.unpack(tenant.pack(math.nan)))
    assert tenant.unpack(b"\xca\x3f\x80\x00\x00") == 1.0  # a float of 32 bits, which msgspec never writes


def test_what_does_not_go_over_the_wire_is_said() -> None:
    for value, error in (
        (object(), TypeError),
        ({1: 2}, TypeError),
        (2**64, OverflowError),
        (-(2**63) - 1, OverflowError),
    ):
        with pytest.raises(error):
            tenant.pack(value)
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        tenant.pack(deep)
    with pytest.raises(tenant.Malformed, match="nested"):
        tenant.unpack(b"\x91" * 100_000)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_malformed(data: bytes) -> None:
    for read in (tenant.unpack, tenant.answer):
        with contextlib.suppress(tenant.Malformed):
            read(data)


@given(values, st.data())
def test_a_message_cut_short_or_changed_is_malformed_or_another_value(value: Any, data: st.DataObject) -> None:
    good = tenant.pack(value)
    with pytest.raises(tenant.Malformed):
        tenant.unpack(good + b"\xc0")
    with pytest.raises(tenant.Malformed):
        tenant.unpack(good[: data.draw(st.integers(0, len(good) - 1))])


def test_a_claimed_size_costs_no_memory() -> None:
    for first in (b"\xc6", b"\xdb", b"\xdd", b"\xdf"):
        with pytest.raises(tenant.Malformed):
            tenant.unpack(first + b"\xff\xff\xff\xff")


@given(st.integers(1, message.MAX_ID), st.text(max_size=20), st.dictionaries(st.text(max_size=9), scalars, max_size=3))
def test_a_request_is_byte_for_byte_the_envelope_of_wire_message(number: int, verb: str, body: dict[str, Any]) -> None:
    raw = msgspec.Raw(msgspec.msgpack.encode(body))
    assert tenant.request(number, verb, body) == message.encode(message.Request(number, verb, raw))


def test_answers_of_every_type_are_understood() -> None:
    body = msgspec.Raw(msgspec.msgpack.encode({"kind": "clock"}))
    assert tenant.answer(message.encode(message.Hello(1, 2**63))) == tenant.Answer("hello", epoch=2**63)
    assert tenant.answer(message.encode(message.Reply(7, body))) == tenant.Answer("reply", 7, {"kind": "clock"})
    failure = message.Failure(8, "no-grant", "no", "[grants.db]")
    assert tenant.answer(message.encode(failure)) == tenant.Answer(
        "failure", 8, code="no-grant", text="no", grant="[grants.db]"
    )
    assert tenant.answer(message.encode(message.Failure(9, "busy", "later"))).grant is None
    event = message.Event("a.b", body, "bus")
    assert tenant.answer(message.encode(event)) == tenant.Answer("event", body={"kind": "clock"}, text="a.b")


@pytest.mark.parametrize(
    "message_",
    [[], {"type": "reply"}, {"type": "what"}, {"type": "hello", "epoch": True}, {"type": "failure", "id": 1}],
)
def test_what_lacks_a_field_is_malformed(message_: Any) -> None:
    with pytest.raises(tenant.Malformed):
        tenant.answer(tenant.pack(message_))


def test_both_sides_agree_about_the_limits() -> None:
    assert (tenant.VERSION, tenant.MAX_ID, tenant.MAX_FDS) == (message.VERSION, message.MAX_ID, message.MAX_FDS)
    assert tenant.MAX_ANSWER == message.MAX_DATAGRAM
    with pytest.raises(ValueError, match="at most"):
        tenant.request(1, "open", {"name": "x" * tenant.MAX_REQUEST})
