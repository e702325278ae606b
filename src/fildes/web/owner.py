"""What the exchange of connections is given: how many descriptors it may use for what, and whom it tells."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fildes.web.parcels import Conveyor, Parcel
from fildes.wire import conveyor as wire


class Limits(NamedTuple):
    """What the door's descriptors are for; together they stay below RLIMIT_NOFILE."""

    unacknowledged: int
    copies: int
    reading: int
    waiting: int
    relays: int
    conveyors: int
    refused: int

    @classmethod
    def of(cls, files: int) -> Limits:
        """For `files` descriptors in all."""
        return cls(
            unacknowledged=files * 3 // 8,
            copies=files * 7 // 16,
            reading=files * 3 // 16,
            waiting=files // 16,
            relays=files // 16,
            conveyors=files // 8,
            refused=min(512, files // 32),
        )


class Owner(Protocol):
    """Who is told what became of connections: the door."""

    def wanted(self, conveyor: Conveyor) -> object:
        """There is no end for this conveyor: fetch one."""

    def came_back(self, conveyor: Conveyor, back: wire.Back, number: int, copy: Parcel | None, progress: bool) -> str:
        """Handed back: route again. Owns `number`. A text says why it is not believed (number is closed then)."""

    def undelivered(self, conveyor: Conveyor, parcel: Parcel) -> object:
        """The conveyor is gone or retired before the parcel left."""

    def overdue(self, conveyor: Conveyor, parcel: Parcel) -> object:
        """No room for it, or not in time."""

    def forsaken(self, conveyor: Conveyor, parcel: Parcel, taken: bool, reason: str) -> object:
        """The taker ended before it answered (`taken`), or the queue vanished with it inside."""

    def dropped(self, conveyor: Conveyor, reason: str | None) -> object:
        """The conveyor is no longer held; with a reason, for what its tenant sent."""
