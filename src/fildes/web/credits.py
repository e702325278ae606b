"""Who may have how many connections under way: pure counting.

A connection that was sent and not yet acknowledged ("T") lies in a queue of the kernel and costs the door a descriptor.
A conveyor may have CREDIT of them, all conveyors together `Budget.limit`: a slow tenant must not use up the door.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

CREDIT: Final = 64

C = TypeVar("C")


class Budget:
    """Unacknowledged connections of all conveyors together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Ledger:
    """One conveyor's connections, by serial: sent and unacknowledged, then taken by a process, then begun, which is
    the end of it, or kept by the process for further requests until it says that they have ended.

    `who` is whose connections are counted together (web/proxies.py, crowd_key), b"" for those that are not counted.
    Acknowledgements come from a tenant: a serial that is not this conveyor's is counted and otherwise ignored, and
    what it says wrongly or not at all spoils its own counts only.
    """

    __slots__ = ("_budget", "clients", "credit", "kept", "newest", "taken", "unacknowledged")

    def __init__(self, budget: Budget, credit: int = CREDIT) -> None:
        self._budget = budget
        self.credit = credit
        self.unacknowledged: dict[int, bytes] = {}  # serial → who; in the order sent
        self.taken: dict[int, tuple[int, bytes]] = {}  # serial → pid, who
        self.kept: dict[int, tuple[int, bytes]] = {}
        self.clients: dict[bytes, int] = {}  # who → how many of all three
        self.newest = 0  # the highest serial that was ever acknowledged: what was sent before it has been received

    @property
    def open(self) -> int:
        """Connections that instances have or will have."""
        return len(self.unacknowledged) + len(self.taken) + len(self.kept)

    def room(self) -> int:
        """How many more connections may be sent now."""
        budget = self._budget
        own, common = self.credit - len(self.unacknowledged), budget.limit - budget.used
        return max(0, own if own < common else common)

    def took_all(self, serials: Iterable[int], pid: int) -> int:
        """`took` of each; how many it is False of."""
        unacknowledged, taken = self.unacknowledged, self.taken
        newest, count, unknown = 0, 0, 0
        for serial in serials:
            who = unacknowledged.pop(serial, None)
            if who is None:
                unknown += 1
                continue
            taken[serial] = pid, who
            count += 1
            newest = serial  # they come in the order in which they were sent
        self.newest = max(self.newest, newest)
        self._budget.used -= count
        return unknown

    def sent(self, serial: int, who: bytes = b"") -> None:
        self.unacknowledged[serial] = who
        self._budget.used += 1
        if who:
            clients = self.clients
            clients[who] = clients.get(who, 0) + 1

    def took(self, serial: int, pid: int) -> bool:
        """ "T": False if it is not one of this conveyor's unacknowledged."""
        who = self.unacknowledged.pop(serial, None)
        if who is None:
            return False
        self._budget.used -= 1
        self.taken[serial] = pid, who
        self.newest = max(self.newest, serial)
        return True

    def forget(self, serial: int) -> bool:
        """ "D" and "B" (which imply "T"): False if the serial is unknown, so also the second time."""
        taken = self.taken.pop(serial, None)
        if taken is not None:
            if taken[1]:
                self._gone(taken[1])
            return True
        who = self.unacknowledged.pop(serial, None)
        if who is None:
            return False
        self._budget.used -= 1
        self.newest = max(self.newest, serial)
        self._gone(who)
        return True

    def keep(self, serial: int, pid: int) -> bool:
        """ "K" (which implies "T" and "D"): False as above."""
        if serial in self.unacknowledged:
            self.took(serial, pid)
        taken = self.taken.pop(serial, None)
        if taken is None:
            return False
        self.kept[serial] = taken
        return True

    def ended(self, serial: int) -> bool:
        """ "E": False if it was not kept."""
        kept = self.kept.pop(serial, None)
        if kept is None:
            return False
        self._gone(kept[1])
        return True

    def forget_taken_by(self, pid: int, *, others: bool = False) -> list[int]:
        """What process `pid` (0: any; or all `others`) had: forgotten. The serials that it took and did not begin to
        answer."""
        serials = self._of(self.taken, pid, others)
        for serial in serials:
            self._gone(self.taken.pop(serial)[1])
        for serial in self._of(self.kept, pid, others):
            self._gone(self.kept.pop(serial)[1])
        return serials

    @staticmethod
    def _of(held: dict[int, tuple[int, bytes]], pid: int, others: bool) -> list[int]:
        return [serial for serial, (holder, _) in held.items() if pid == 0 or (holder == pid) != others]

    def forget_all(self) -> list[int]:
        """Every serial that is not begun; all credit returns."""
        serials = [*self.unacknowledged, *self.taken]
        self._budget.used -= len(self.unacknowledged)
        for held in (self.unacknowledged, self.taken, self.kept, self.clients):
            held.clear()
        return serials

    def _gone(self, who: bytes) -> None:
        if who:
            left = self.clients.get(who, 0) - 1
            if left > 0:
                self.clients[who] = left
            else:
                self.clients.pop(who, None)


class Copies(Generic[C]):
    """The door's own copies of connections that it sent, by serial, oldest first; at most `limit`.

    They are kept for one purpose, to answer 502 when the taker dies. Past the limit the oldest is forgone.
    """

    __slots__ = ("_kept", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[int, C] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, serial: int, copy: C) -> C | None:
        """Keep `copy`; returns one that the caller closes now, if any."""
        self._kept[serial] = copy
        if len(self._kept) > self.limit:
            return self._kept.popitem(last=False)[1]
        return None

    def take(self, serial: int) -> C | None:
        """The copy of `serial`, now the caller's; None if it was forgone."""
        return self._kept.pop(serial, None)


class Allowance:
    """A token bucket: `rate` a second, `burst` at once. Times in seconds, from any steady clock."""

    __slots__ = ("_left", "_when", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._left = burst
        self._when: float | None = None

    def spend(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount`; False when the bucket is empty. It may go below nothing once: what came, came."""
        if self._when is not None:
            self._left = min(self.burst, self._left + (now - self._when) * self.rate)
        self._when = now
        if self._left <= 0:
            return False
        self._left -= amount
        return True
