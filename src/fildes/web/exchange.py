"""All conveyors of the door: which ends it holds, and what becomes of one that comes, changes or goes.

sending.py   connections out, at once: the kernel's queue is the waiting room
hearing.py   acknowledgements, and what is handed back
deaths.py    what a process took and will never answer
"""

from __future__ import annotations

import os
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.web.credits import CREDIT, Budget, Copies
from fildes.web.deaths import Deaths
from fildes.web.hearing import Hearing
from fildes.web.owner import Limits, Owner
from fildes.web.parcels import STATIC, Conveyor, Parcel, is_seqpacket, same_socket
from fildes.web.sending import Sending
from fildes.web.sockets import close_passed

STATIC_CREDIT: Final = 512  # the static daemon is no tenant


class Exchange:
    def __init__(self, loop: Loop, limits: Limits, owner: Owner) -> None:
        self._loop = loop
        self._limits = limits
        self._owner = owner
        self._budget = Budget(limits.unacknowledged)
        self.copies: Copies[Parcel] = Copies(limits.copies)
        self.conveyors: dict[str, Conveyor] = {}
        self.sending = Sending(loop, limits, owner, self)
        self.hearing = Hearing(loop, owner, self)
        self.deaths = Deaths(loop, owner, self)
        self.post = self.sending.post
        self.flush = self.sending.flush
        self.died = self.deaths.died

    # — ends come —

    def conveyor(self, release: str, service: str, owner: str) -> Conveyor:
        conveyor = self.conveyors.get(release)
        if conveyor is None:
            credit = STATIC_CREDIT if release == STATIC else CREDIT
            conveyor = self.conveyors[release] = Conveyor(release, service, owner, self._budget, credit)
        return conveyor

    def adopt(self, release: str, service: str, owner: str, end: Fd) -> bool:
        """Hold the sending end of a release; False if that is what is held already, or it can't be one."""
        conveyor = self.conveyor(release, service, owner)
        conveyor.service = service or conveyor.service
        conveyor.retired = False
        conveyor.halted = ""
        if not is_seqpacket(end.fileno()) or (conveyor.sock and same_socket(conveyor.sock, end.fileno())):
            end.close()
            return False
        if conveyor.sock is not None:
            self._detach(conveyor)
            for serial in conveyor.ledger.forget_all():
                self.forgo(serial)
        conveyor.attach(end.take())
        conveyor.blocked = conveyor.paused = False
        self._loop.watch(conveyor.number, EPOLLIN, lambda events: self.hearing.on_events(conveyor, events))
        self.sending.flush_one(conveyor)
        if len(self.conveyors) > self._limits.conveyors:
            self._evict()
        return True

    def _evict(self) -> None:
        """Let go of the end that was adopted first among those at rest: it can be asked for again."""
        for conveyor in self.conveyors.values():
            if conveyor.sock is not None and conveyor.idle and conveyor.release != STATIC:
                self._let_go(conveyor)
                self._owner.dropped(conveyor, None)
                return

    # — ends change —

    def retire(self, release: str, reason: str) -> None:
        """Send nothing more; hear on what its instances hand back until they have ended. A `reason` lasts until its
        end is adopted (again)."""
        conveyor = self.conveyors.get(release)
        if conveyor is None:
            return
        conveyor.retired, conveyor.halted = not reason, reason
        for parcel in self.sending.empty(conveyor):
            if reason:
                self._owner.overdue(conveyor, parcel)
            else:
                self._owner.undelivered(conveyor, parcel)
        if conveyor.sock is None and not reason:
            self._let_go(conveyor)

    def refuse(self, conveyor: Conveyor, reason: str) -> None:
        """There is no end to be had for now; `forgive` ends that."""
        conveyor.halted = reason
        for parcel in self.sending.empty(conveyor):
            self._owner.overdue(conveyor, parcel)

    def forgive(self, conveyor: Conveyor) -> None:
        if conveyor.sock is None:
            conveyor.halted = ""
            if conveyor.idle:
                self.conveyors.pop(conveyor.release, None)

    # — ends go —

    def drop(self, conveyor: Conveyor, reason: str) -> None:
        """Close a conveyor whose tenant broke the protocol. What it took is between it and its clients."""
        for serial in conveyor.ledger.forget_all():
            self.forgo(serial)
        for parcel in self._let_go(conveyor):
            self._owner.overdue(conveyor, parcel)
        self._owner.dropped(conveyor, reason)

    def lost(self, conveyor: Conveyor) -> None:
        """Nobody holds the receiving end any more."""
        waiting = self._let_go(conveyor)
        taken = set(conveyor.ledger.taken)
        for serial in conveyor.ledger.forget_all():
            copy = self.copies.take(serial)
            if copy is not None:
                self._owner.forsaken(conveyor, copy, serial in taken, "")
        self._owner.dropped(conveyor, None)
        for parcel in waiting:
            self._owner.undelivered(conveyor, parcel)

    def _let_go(self, conveyor: Conveyor) -> list[Parcel]:
        """Forget a conveyor altogether; what was waiting for it is the caller's."""
        self._detach(conveyor)
        self.conveyors.pop(conveyor.release, None)
        self.sending.forget(conveyor)
        return self.sending.empty(conveyor)

    def _detach(self, conveyor: Conveyor) -> None:
        if conveyor.sock is not None:
            self._loop.unwatch(conveyor.sock.fileno())
            conveyor.sock.close()
            conveyor.sock = None

    def forgo(self, serial: int) -> None:
        """Close the door's copy. No tenant can have made that slow: SO_LINGER is refused to all of them
        (sandbox/profiles), and setting it back would be a fifth of what a connection costs the door."""
        copy = self.copies.take(serial)
        if copy is not None:
            os.close(copy.number)

    def close(self) -> None:
        for conveyor in list(self.conveyors.values()):
            for serial in conveyor.ledger.forget_all():
                self.forgo(serial)
            for parcel in self._let_go(conveyor):
                close_passed(parcel.number)

    @property
    def waiting(self) -> int:
        return len(self.sending)
