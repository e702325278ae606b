"""One connection of static's: what it waits for, and how long it may; and who decides what it gets."""

from __future__ import annotations

from typing import Final, Protocol

from fildes.static.plan import Plan
from fildes.static.sites import Site
from fildes.wire.http import Head

HEAD_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 75.0
STALL_SECONDS: Final = 60.0  # a reader that takes nothing
LINGER_SECONDS: Final = 2.0

IDLE: Final = 0  # between requests
HEAD: Final = 1  # a head is incomplete
WRITING: Final = 2
HELD: Final = 3  # its pack or its route is awaited; not watched
LINGERING: Final = 4  # answered for the last time; what still comes is thrown away

PATIENCE: Final = {
    IDLE: IDLE_SECONDS,
    HEAD: HEAD_SECONDS,
    WRITING: STALL_SECONDS,
    HELD: 30.0,
    LINGERING: LINGER_SECONDS,
}


class Connection:
    """`serial`: the door's name for it. `since`: when it began to wait for what it waits for."""

    __slots__ = (
        "buffer",
        "closing",
        "count",
        "fresh",
        "number",
        "offset",
        "once",
        "out",
        "serial",
        "since",
        "site",
        "state",
    )

    def __init__(self, number: int, serial: int, once: bool, since: float) -> None:
        self.number = number
        self.serial = serial
        self.once = once  # its host has more routes than ours: what comes after the first request is the door's
        self.fresh = True  # the first request since the door gave it
        self.since = since
        self.state = IDLE
        self.buffer = b""
        self.out: memoryview | bytes = b""
        self.site: Site | None = None  # being sent from: `count` bytes at `offset`
        self.offset = self.count = 0
        self.closing = False


class Decider(Protocol):
    def plan(self, connection: Connection, head: Head) -> Plan | None:
        """What to answer. None: the decider has taken the connection (it holds it, or hands it back)."""

    def hand_back(self, connection: Connection) -> None:
        """Something comes on a connection of which only the door knows whose it is."""
