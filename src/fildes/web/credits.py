"""Who may have how many connections under way: pure counting.

A connection that was sent and not yet acknowledged ("T") lies in a queue of the kernel and costs the door a descriptor.
A conveyor may have CREDIT of them, all conveyors together `Budget.limit`: a slow tenant must not use up the door.
"""

from __future__ import annotations

from collections import OrderedDict
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
    """One conveyor's connections, by serial: sent and unacknowledged, then taken by a process, then begun (forgotten).

    Acknowledgements come from a tenant: a serial that is not this conveyor's is counted and otherwise ignored.
    """

    __slots__ = ("_budget", "credit", "newest", "taken", "unacknowledged")

    def __init__(self, budget: Budget, credit: int = CREDIT) -> None:
        self._budget = budget
        self.credit = credit
        self.unacknowledged: dict[int, None] = {}  # in the order sent
        self.taken: dict[int, int] = {}  # serial → pid
        self.newest = 0  # the highest serial that was ever acknowledged: what was sent before it has been received

    def room(self) -> int:
        """How many more connections may be sent now."""
        budget = self._budget
        return max(0, min(self.credit - len(self.unacknowledged), budget.limit - budget.used))

    def sent(self, serial: int) -> None:
        self.unacknowledged[serial] = None
        self._budget.used += 1

    def took(self, serial: int, pid: int) -> bool:
        """ "T": False if it is not one of this conveyor's unacknowledged."""
        if serial not in self.unacknowledged:
            return False
        del self.unacknowledged[serial]
        self._budget.used -= 1
        self.taken[serial] = pid
        self.newest = max(self.newest, serial)
        return True

    def forget(self, serial: int) -> bool:
        """ "D" and "B" (which imply "T"): False if the serial is unknown, so also the second time."""
        if serial in self.unacknowledged:
            del self.unacknowledged[serial]
            self._budget.used -= 1
            self.newest = max(self.newest, serial)
            return True
        return self.taken.pop(serial, None) is not None

    def forget_taken_by(self, pid: int, *, others: bool = False) -> list[int]:
        """The serials that process `pid` (0: any; or all `others`) took and did not begin to answer: forgotten."""
        serials = [serial for serial, taker in self.taken.items() if pid == 0 or (taker == pid) != others]
        for serial in serials:
            del self.taken[serial]
        return serials

    def forget_all(self) -> list[int]:
        """Every serial that is not begun; all credit returns."""
        serials = [*self.unacknowledged, *self.taken]
        self._budget.used -= len(self.unacknowledged)
        self.unacknowledged.clear()
        self.taken.clear()
        return serials


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
