"""When a process dies that took connections: its clients get an answer from the door's copies."""

from __future__ import annotations

import fcntl
import termios
from typing import TYPE_CHECKING, Final

from fildes.kernel.loop import Loop
from fildes.web.owner import Owner
from fildes.web.parcels import Conveyor

if TYPE_CHECKING:
    from fildes.web.exchange import Exchange

_SUSPICION: Final = 1.0  # seconds that a surviving instance has to acknowledge what it received


class Deaths:
    def __init__(self, loop: Loop, owner: Owner, exchange: Exchange) -> None:
        self._loop = loop
        self._owner = owner
        self._exchange = exchange

    def died(self, release: str, pid: int, reason: str, *, others: bool = False) -> None:
        """Process `pid` (0: any; or all `others`) of a release ended: give up what it took and did not answer."""
        conveyor = self._exchange.conveyors.get(release)
        if conveyor is None or conveyor.sock is None:
            return
        self._exchange.hearing.read(conveyor, 1024)  # what it had said before
        self._give_up(conveyor, conveyor.ledger.forget_taken_by(pid, others=others), reason)
        # It may have received some without living to say so.
        suspects = list(conveyor.ledger.unacknowledged)
        if suspects:
            self._loop.call_later(_SUSPICION, lambda: self._suspect(conveyor, suspects, reason))

    def _suspect(self, conveyor: Conveyor, suspects: list[int], reason: str) -> None:
        """Those of `suspects` that somebody received a while ago and nobody speaks of died with their taker.

        The queue is first in, first out: what was sent before something acknowledged, or before the queue was empty,
        was received.
        """
        ledger = conveyor.ledger
        left = [serial for serial in suspects if serial in ledger.unacknowledged]
        if not left or conveyor.sock is None:
            return
        empty = _unread(conveyor) == 0
        lost = [serial for serial in left if empty or serial < ledger.newest]
        for serial in lost:
            ledger.forget(serial)
        self._give_up(conveyor, lost, reason)
        self._exchange.sending.flush_one(conveyor)
        if len(lost) < len(left):
            self._loop.call_later(_SUSPICION, lambda: self._suspect(conveyor, left, reason))

    def _give_up(self, conveyor: Conveyor, serials: list[int], reason: str) -> None:
        for serial in serials:
            copy = self._exchange.copies.take(serial)
            if copy is not None:
                self._owner.forsaken(conveyor, copy, True, reason)


def _unread(conveyor: Conveyor) -> int:
    """Bytes (with the kernel's overhead) that nobody has received yet: unix(7), SIOCOUTQ."""
    result = fcntl.ioctl(conveyor.number, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(result, "little")
