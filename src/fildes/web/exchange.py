"""All conveyors: connections out, acknowledgements in. Sends at once; the kernel's queue is the waiting room.

What instances send comes from tenants. A datagram that can't be read, or a descriptor that the door never accepted,
costs its sender the conveyor and nobody else anything.
"""

from __future__ import annotations

import errno
import fcntl
import termios
from typing import Final

from fildes.daemon.deadlines import Deadlines
from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLHUP, EPOLLIN, EPOLLOUT, Loop
from fildes.web.credits import CREDIT, Budget, Copies
from fildes.web.owner import Limits, Owner
from fildes.web.parcels import STATIC, Conveyor, Message, Parcel, is_seqpacket, receive, same_socket
from fildes.web.sockets import close_passed
from fildes.wire import conveyor as wire

BACKLOG: Final = 128  # parcels of one conveyor that the door itself keeps for want of credit
STATIC_CREDIT: Final = 512  # the static daemon is no tenant
_WAIT: Final = 10.0  # seconds in a backlog
_DATAGRAMS: Final = 16  # read from one conveyor before the others get their turn
_PAUSE: Final = 0.1  # seconds that a nuisance is not listened to
_SUSPICION: Final = 1.0  # seconds that a surviving instance has to acknowledge what it received
_RETRY: Final = 0.02  # seconds


class Exchange:
    def __init__(self, loop: Loop, limits: Limits, owner: Owner) -> None:
        self._loop = loop
        self._limits = limits
        self._owner = owner
        self._budget = Budget(limits.unacknowledged)
        self._copies: Copies[Parcel] = Copies(limits.copies)
        self._serial = int(loop.time() * 1000) & 0x3FFFFFFF  # not those of a forerunner: its may still be acknowledged
        self._dirty: dict[Conveyor, None] = {}
        self._starved: dict[Conveyor, None] = {}
        self._waiting: dict[int, tuple[Conveyor, Parcel]] = {}
        self._deadlines = Deadlines(loop, _WAIT, self._overdue)
        self._retrying = False
        self.conveyors: dict[str, Conveyor] = {}

    # — conveyors —

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
                self._forgo(serial)
        conveyor.attach(end.take())
        conveyor.blocked = conveyor.paused = False
        self._loop.watch(_number(conveyor), EPOLLIN, lambda events: self._on_events(conveyor, events))
        self._flush(conveyor)
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

    def _watch(self, conveyor: Conveyor) -> None:
        events = (0 if conveyor.paused else EPOLLIN) | (EPOLLOUT if conveyor.blocked else 0)
        self._loop.rewatch(_number(conveyor), events)

    def _detach(self, conveyor: Conveyor) -> None:
        if conveyor.sock is not None:
            self._loop.unwatch(conveyor.sock.fileno())
            conveyor.sock.close()
            conveyor.sock = None

    def _let_go(self, conveyor: Conveyor) -> list[Parcel]:
        """Forget a conveyor altogether; what was waiting for it is the caller's."""
        self._detach(conveyor)
        self.conveyors.pop(conveyor.release, None)
        self._dirty.pop(conveyor, None)
        self._starved.pop(conveyor, None)
        return self._empty(conveyor)

    def _empty(self, conveyor: Conveyor) -> list[Parcel]:
        left = list(conveyor.backlog)
        conveyor.backlog.clear()
        for parcel in left:
            self._waits_no_more(parcel)
        return left

    # — sending —

    def post(self, conveyor: Conveyor, parcel: Parcel) -> None:
        """Send soon: at the next `flush` at the latest."""
        if len(conveyor.backlog) >= BACKLOG or len(self._waiting) >= self._limits.waiting:
            self._owner.overdue(conveyor, parcel)
            return
        self._serial = self._serial % 0xFFFFFFFF + 1
        parcel.serial = self._serial
        conveyor.backlog.append(parcel)
        self._dirty[conveyor] = None
        if len(conveyor.backlog) == wire.MAX_CONNECTIONS:
            self._flush(conveyor)

    def flush(self) -> None:
        """Send what was posted since the last time."""
        while self._dirty:
            self._flush(self._dirty.popitem()[0])

    def _flush(self, conveyor: Conveyor) -> None:
        backlog = conveyor.backlog
        while backlog and conveyor.sock is not None and not conveyor.blocked:
            batch = conveyor.next_batch()
            if not batch:
                if len(conveyor.ledger.unacknowledged) < conveyor.ledger.credit:
                    self._starved[conveyor] = None  # by the common budget
                break
            try:
                conveyor.send(batch)
            except OSError as error:
                if not self._not_sent(conveyor, error):
                    return
                continue
            for parcel in batch:
                backlog.popleft()
                self._sent(conveyor, parcel)
        for parcel in backlog:
            if parcel.serial not in self._waiting:
                self._waiting[parcel.serial] = conveyor, parcel
                self._deadlines.add(parcel.serial)
        if backlog and conveyor.sock is None:
            self._owner.wanted(conveyor)

    def _sent(self, conveyor: Conveyor, parcel: Parcel) -> None:
        if self._waiting:
            self._waits_no_more(parcel)
        conveyor.counts.sent += 1
        conveyor.ledger.sent(parcel.serial)
        parcel.head = b""
        forgone = self._copies.keep(parcel.serial, parcel)
        if forgone is not None:
            close_passed(forgone.number)

    def _not_sent(self, conveyor: Conveyor, error: OSError) -> bool:
        """Whether the conveyor is still there."""
        if isinstance(error, BlockingIOError):
            conveyor.blocked = True
            self._watch(conveyor)
        elif error.errno == errno.ETOOMANYREFS:
            self._starved[conveyor] = None
            conveyor.blocked = True
            if not self._retrying:
                self._retrying = True
                self._loop.call_later(_RETRY, self._retry)
        elif error.errno == errno.EMSGSIZE:
            self._owner.overdue(conveyor, conveyor.backlog.popleft())
        else:
            self._read(conveyor, 1024, hung_up=True)
            if conveyor.sock is not None:
                self._lost(conveyor)
            return False
        return True

    def _retry(self) -> None:
        self._retrying = False
        for conveyor in list(self._starved):
            conveyor.blocked = False
        self._feed()

    def _feed(self) -> None:
        """There is room in the common budget again."""
        starved, self._starved = self._starved, {}
        for conveyor in starved:
            self._flush(conveyor)

    def _overdue(self, serial: int) -> None:
        conveyor, parcel = self._waiting.pop(serial)
        conveyor.backlog.remove(parcel)
        self._owner.overdue(conveyor, parcel)

    def _waits_no_more(self, parcel: Parcel) -> None:
        if self._waiting.pop(parcel.serial, None) is not None:
            self._deadlines.remove(parcel.serial)

    # — receiving —

    def _on_events(self, conveyor: Conveyor, events: int) -> None:
        if events & EPOLLOUT and conveyor.blocked:
            conveyor.blocked = False
            self._watch(conveyor)
            self._flush(conveyor)
        if events & ~EPOLLOUT:
            self._read(conveyor, _DATAGRAMS, hung_up=bool(events & EPOLLHUP))
        self.flush()

    def _read(self, conveyor: Conveyor, rounds: int, *, hung_up: bool = False) -> None:
        spent = 0
        for _ in range(rounds):
            if conveyor.sock is None:
                return
            try:
                message = receive(conveyor.sock)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # told once: the other end is gone and left some unread; what it said before is still there
            except OSError:
                self._lost(conveyor)
                return
            if not message.data and not message.numbers and hung_up:
                self._lost(conveyor)
                return
            try:
                spent += self._heed(conveyor, message)
            except ValueError as error:
                for number in message.numbers:
                    close_passed(number)
                self.drop(conveyor, str(error))
                return
        if conveyor.backlog:
            self._flush(conveyor)
        if self._starved and self._budget.used < self._budget.limit:
            self._feed()
        if spent and not conveyor.allowance.spend(self._loop.time(), spent) and conveyor.sock is not None:
            conveyor.paused = True
            self._watch(conveyor)
            self._loop.call_later(_PAUSE, lambda: self._resume(conveyor))

    def _resume(self, conveyor: Conveyor) -> None:
        if conveyor.paused and conveyor.sock is not None:
            conveyor.paused = False
            self._watch(conveyor)

    def _heed(self, conveyor: Conveyor, message: Message) -> int:
        """How much of a nuisance it was. Raises ValueError for what is none of the protocol."""
        if not message.whole:
            raise ValueError("it sent a message larger than agreed")
        told = wire.decode_outward(message.data, len(message.numbers))
        ledger = conveyor.ledger
        useless = 0
        if isinstance(told, wire.Taken):
            for serial in told.serials:
                if not ledger.took(serial, message.pid):
                    useless += 1
        elif isinstance(told, wire.Done):
            for serial in told.serials:
                if ledger.forget(serial):
                    self._forgo(serial)
                else:
                    useless += 1
        else:
            conveyor.counts.returned += 1
            progress = not ledger.forget(told.serial)
            copy = None if progress else self._copies.take(told.serial)
            number = message.numbers.pop()
            disbelief = self._owner.came_back(conveyor, told, number, copy, progress)
            if copy is not None:
                close_passed(copy.number)
            if disbelief:
                raise ValueError(f"it handed back a descriptor that is none of the door's: {disbelief}")
            useless = 1
        return useless

    def _forgo(self, serial: int) -> None:
        copy = self._copies.take(serial)
        if copy is not None:
            close_passed(copy.number)

    # — ends —

    def drop(self, conveyor: Conveyor, reason: str) -> None:
        """Close a conveyor whose tenant broke the protocol. What it took is between it and its clients."""
        for serial in conveyor.ledger.forget_all():
            self._forgo(serial)
        for parcel in self._let_go(conveyor):
            self._owner.overdue(conveyor, parcel)
        self._owner.dropped(conveyor, reason)

    def _lost(self, conveyor: Conveyor) -> None:
        """Nobody holds the receiving end any more."""
        waiting = self._let_go(conveyor)
        taken = set(conveyor.ledger.taken)
        for serial in conveyor.ledger.forget_all():
            copy = self._copies.take(serial)
            if copy is not None:
                self._owner.forsaken(conveyor, copy, serial in taken, "")
        self._owner.dropped(conveyor, None)
        for parcel in waiting:
            self._owner.undelivered(conveyor, parcel)

    def retire(self, release: str, reason: str) -> None:
        """Send nothing more; hear on what its instances hand back until they have ended. A `reason` lasts until its
        end is adopted (again)."""
        conveyor = self.conveyors.get(release)
        if conveyor is None:
            return
        conveyor.retired, conveyor.halted = not reason, reason
        for parcel in self._empty(conveyor):
            if reason:
                self._owner.overdue(conveyor, parcel)
            else:
                self._owner.undelivered(conveyor, parcel)
        if conveyor.sock is None and not reason:
            self._let_go(conveyor)

    def refuse(self, conveyor: Conveyor, reason: str) -> None:
        """There is no end to be had for now; `forgive` ends that."""
        conveyor.halted = reason
        for parcel in self._empty(conveyor):
            self._owner.overdue(conveyor, parcel)

    def forgive(self, conveyor: Conveyor) -> None:
        if conveyor.sock is None:
            conveyor.halted = ""
            if conveyor.idle:
                self.conveyors.pop(conveyor.release, None)

    def died(self, release: str, pid: int, reason: str, *, others: bool = False) -> None:
        """Process `pid` (0: any; or all `others`) of a release ended: give up what it took and did not answer."""
        conveyor = self.conveyors.get(release)
        if conveyor is None or conveyor.sock is None:
            return
        self._read(conveyor, 1024)  # what it had said before
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
        self._flush(conveyor)
        if len(lost) < len(left):
            self._loop.call_later(_SUSPICION, lambda: self._suspect(conveyor, left, reason))

    def _give_up(self, conveyor: Conveyor, serials: list[int], reason: str) -> None:
        for serial in serials:
            copy = self._copies.take(serial)
            if copy is not None:
                self._owner.forsaken(conveyor, copy, True, reason)

    def close(self) -> None:
        for conveyor in list(self.conveyors.values()):
            for serial in conveyor.ledger.forget_all():
                self._forgo(serial)
            for parcel in self._let_go(conveyor):
                close_passed(parcel.number)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def copies(self) -> int:
        return len(self._copies)


def _number(conveyor: Conveyor) -> int:
    if conveyor.sock is None:
        raise ValueError("a conveyor without an end")
    return conveyor.sock.fileno()


def _unread(conveyor: Conveyor) -> int:
    """Bytes (with the kernel's overhead) that nobody has received yet: unix(7), SIOCOUTQ."""
    result = fcntl.ioctl(_number(conveyor), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(result, "little")
