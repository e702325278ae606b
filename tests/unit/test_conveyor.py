from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.wire import conveyor
from fildes.wire.conveyor import Back, Connection, Done, Introduction, Taken

SERIALS = st.integers(0, 2**32 - 1)
CONNECTIONS = st.lists(
    st.builds(Connection, SERIALS, st.integers(0, 255), st.binary(max_size=255), st.binary(max_size=99)),
    min_size=1,
    max_size=conveyor.MAX_CONNECTIONS,
)


@given(CONNECTIONS)
def test_connections_come_out_as_they_went_in(connections: list[Connection]) -> None:
    data = conveyor.encode_connections(connections)
    assert len(data) == 2 + sum(map(conveyor.encoded_size, connections))
    assert conveyor.decode_inward(data, len(connections)) == connections
    assert conveyor.decode_inward(memoryview(bytearray(data)), len(connections)) == connections


@given(CONNECTIONS, st.data())
def test_what_does_not_agree_is_refused(connections: list[Connection], data: st.DataObject) -> None:
    whole = conveyor.encode_connections(connections)
    with pytest.raises(ValueError, match="conveyor message"):
        conveyor.decode_inward(whole, len(connections) + 1)
    with pytest.raises(ValueError, match="conveyor message"):
        conveyor.decode_inward(whole[: data.draw(st.integers(0, len(whole) - 1))], len(connections))
    with pytest.raises(ValueError, match="conveyor message"):
        conveyor.decode_inward(whole + b"x", len(connections))


@given(st.binary(max_size=60), st.integers(0, 3))
def test_garbage_is_refused_or_read(data: bytes, fds: int) -> None:
    for decode in (conveyor.decode_inward, conveyor.decode_outward):
        try:
            decode(data, fds)
        except ValueError:
            continue


def test_too_many_and_too_much() -> None:
    one = Connection(1, 0, b"::1 1", b"x")
    for connections in ([], [one] * (conveyor.MAX_CONNECTIONS + 1), [one._replace(head=bytes(70000))] * 2):
        with pytest.raises(ValueError, match="conveyor message"):
            conveyor.encode_connections(connections)


def test_introduction() -> None:
    assert conveyor.decode_inward(conveyor.encode_introduction("shöp"), 1) == Introduction("shöp")
    for data, fds in ((b"I\x04shop", 0), (b"I\x05shop", 1), (b"I", 1), (b"I\x01\xff", 1), (b"", 0)):
        with pytest.raises(ValueError):
            conveyor.decode_inward(data, fds)


@given(st.lists(SERIALS, min_size=1, max_size=99), st.binary(max_size=99))
def test_outward(serials: list[int], head: bytes) -> None:
    assert conveyor.decode_outward(conveyor.encode_taken(serials), 0) == Taken(tuple(serials))
    assert conveyor.decode_outward(conveyor.encode_done(serials), 0) == Done(tuple(serials))
    assert conveyor.decode_outward(conveyor.encode_back(serials[0], head), 1) == Back(serials[0], head)


@pytest.mark.parametrize(
    ("data", "fds"), [(b"T", 0), (b"T123", 0), (b"T1234", 1), (b"B" + bytes(8), 0), (b"X", 0), (b"", 0)]
)
def test_outward_garbage(data: bytes, fds: int) -> None:
    with pytest.raises(ValueError, match="instance"):
        conveyor.decode_outward(data, fds)
