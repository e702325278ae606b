"""The order to start, which C reads too."""

from __future__ import annotations

import pytest

from fildes.wire import zygote as wire


@pytest.mark.parametrize("fork", [True, False])
def test_there_and_back(fork: bool) -> None:
    names = ["conveyor", "handle", "channel", "grant:db", "grant:db"]
    assert wire.decode(wire.encode_start("0a1b", names, fork=fork)) == {
        "do": "start",
        "instance": "0a1b",
        "fork": fork,
        "fds": names,
    }


@pytest.mark.parametrize("data", [b"S", b"S1", b"S1\0", b"S2\0x\0", b"S1\0x", b"S1\0x\0handle", b"S1\0\xff\0"])
def test_what_is_no_order(data: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode(data)
