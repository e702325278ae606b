"""Connections for a release that wants none any more: the catalogue may be about to name another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fildes.daemon.deadlines import Deadlines
from fildes.kernel.loop import Loop
from fildes.web.parcels import Conveyor, Parcel
from fildes.web.sockets import close_passed

PATIENCE: Final = 1.0  # seconds


class Parking:
    def __init__(self, loop: Loop, limit: int, overdue: Callable[[Conveyor, Parcel], object]) -> None:
        self._limit = limit
        self._overdue = overdue
        self._parked: dict[int, tuple[Conveyor, Parcel]] = {}
        self._deadlines = Deadlines(loop, PATIENCE, self._too_long)

    def park(self, conveyor: Conveyor, parcel: Parcel) -> None:
        if len(self._parked) >= self._limit:
            self._overdue(conveyor, parcel)
        else:
            self._parked[parcel.number] = conveyor, parcel
            self._deadlines.add(parcel.number)

    def empty(self) -> list[Parcel]:
        """All that is parked, now the caller's."""
        parked, self._parked = self._parked, {}
        for number in parked:
            self._deadlines.remove(number)
        return [parcel for _, parcel in parked.values()]

    def _too_long(self, number: int) -> None:
        self._overdue(*self._parked.pop(number))

    def close(self) -> None:
        for parcel in self.empty():
            close_passed(parcel.number)
