"""Connections out: what is posted waits for credit, and goes with what else goes to the same conveyor."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from fildes.daemon.deadlines import Deadlines
from fildes.kernel.loop import Loop
from fildes.web.owner import Limits, Owner
from fildes.web.parcels import Conveyor, Parcel
from fildes.wire import conveyor as wire

if TYPE_CHECKING:
    from fildes.web.exchange import Exchange

BACKLOG: Final = 128  # parcels of one conveyor that the door itself keeps for want of credit
_WAIT: Final = 10.0  # seconds in a backlog
_RETRY: Final = 0.02  # seconds


class Sending:
    def __init__(self, loop: Loop, limits: Limits, owner: Owner, exchange: Exchange) -> None:
        self._loop = loop
        self._limits = limits
        self._owner = owner
        self._exchange = exchange
        self._serial = int(loop.time() * 1000) & 0x3FFFFFFF  # not those of a forerunner: its may still be acknowledged
        self._dirty: dict[Conveyor, None] = {}
        self.starved: dict[Conveyor, None] = {}  # for want of the common budget
        self._waiting: dict[int, tuple[Conveyor, Parcel]] = {}
        self._deadlines = Deadlines(loop, _WAIT, self._overdue)
        self._retrying = False

    def __len__(self) -> int:
        """Parcels that wait."""
        return len(self._waiting)

    def post(self, conveyor: Conveyor, parcel: Parcel) -> None:
        """Send soon: at the next `flush` at the latest."""
        backlog = conveyor.backlog
        if len(backlog) >= BACKLOG or len(self._waiting) >= self._limits.waiting:
            self._owner.overdue(conveyor, parcel)
            return
        parcel.serial = self._serial = self._serial % 0xFFFFFFFF + 1
        backlog.append(parcel)
        self._dirty[conveyor] = None
        if len(backlog) == wire.MAX_CONNECTIONS:
            self.flush_one(conveyor)

    def flush(self) -> None:
        """Send what was posted since the last time."""
        while self._dirty:
            self.flush_one(self._dirty.popitem()[0])

    def flush_one(self, conveyor: Conveyor) -> None:
        backlog = conveyor.backlog
        while backlog and conveyor.sock is not None and not conveyor.blocked:
            batch = conveyor.next_batch()
            if not batch:
                if len(conveyor.ledger.unacknowledged) < conveyor.ledger.credit:
                    self.starved[conveyor] = None  # by the common budget
                break
            try:
                conveyor.send(batch)
            except OSError as error:
                if not self._not_sent(conveyor, error):
                    return
                continue
            self._sent(conveyor, batch)
        for parcel in backlog:
            if parcel.serial not in self._waiting:
                self._waiting[parcel.serial] = conveyor, parcel
                self._deadlines.add(parcel.serial)
        if backlog and conveyor.sock is None:
            self._owner.wanted(conveyor)

    def _sent(self, conveyor: Conveyor, batch: list[Parcel]) -> None:
        """These, which are the first of the backlog."""
        forget, sent, keep = conveyor.backlog.popleft, conveyor.ledger.sent, self._exchange.copies.keep
        conveyor.counts.sent += len(batch)
        for parcel in batch:
            forget()
            if self._waiting:
                self._waits_no_more(parcel)
            sent(parcel.serial, parcel.who)
            parcel.head = b""
            forgone = keep(parcel.serial, parcel)
            if forgone is not None:
                os.close(forgone.number)

    def _not_sent(self, conveyor: Conveyor, error: OSError) -> bool:
        """Whether the conveyor is still there."""
        if isinstance(error, BlockingIOError):
            conveyor.blocked = True
            self._watch(conveyor)
        elif error.errno == errno.ETOOMANYREFS:
            self.starved[conveyor] = None
            conveyor.blocked = True
            if not self._retrying:
                self._retrying = True
                self._loop.call_later(_RETRY, self._retry)
        elif error.errno == errno.EMSGSIZE:
            self._owner.overdue(conveyor, conveyor.backlog.popleft())
        else:
            self._exchange.hearing.read(conveyor, 1024, hung_up=True)
            if conveyor.sock is not None:
                self._exchange.lost(conveyor)
            return False
        return True

    def _retry(self) -> None:
        self._retrying = False
        for conveyor in list(self.starved):
            conveyor.blocked = False
        self.feed()

    def feed(self) -> None:
        """There is room in the common budget again."""
        starved, self.starved = self.starved, {}
        for conveyor in starved:
            self.flush_one(conveyor)

    def _overdue(self, serial: int) -> None:
        conveyor, parcel = self._waiting.pop(serial)
        conveyor.backlog.remove(parcel)
        self._owner.overdue(conveyor, parcel)

    def _waits_no_more(self, parcel: Parcel) -> None:
        if self._waiting.pop(parcel.serial, None) is not None:
            self._deadlines.remove(parcel.serial)

    def empty(self, conveyor: Conveyor) -> list[Parcel]:
        left = list(conveyor.backlog)
        conveyor.backlog.clear()
        for parcel in left:
            self._waits_no_more(parcel)
        return left

    def forget(self, conveyor: Conveyor) -> None:
        """It is held no more."""
        self._dirty.pop(conveyor, None)
        self.starved.pop(conveyor, None)

    def _watch(self, conveyor: Conveyor) -> None:
        self._loop.rewatch(conveyor.number, conveyor.events)
