"""What was refused lately, for `fildes explain`. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from fildes.wire.bus import Denial

_KEPT: Final = 200
_OF_ONE: Final = 50  # of one service: one that asks in a loop must not push the others out


class Denials:
    def __init__(self) -> None:
        self.count = 0
        self._kept: deque[Denial] = deque()

    def add(self, denial: Denial) -> None:
        """Keep it; the oldest of the same service goes when that has its share, the oldest of all when it is full."""
        self.count += 1
        of_one = [each for each in self._kept if each.service == denial.service]
        if len(of_one) >= _OF_ONE:
            self._kept.remove(of_one[0])
        elif len(self._kept) >= _KEPT:
            self._kept.popleft()
        self._kept.append(denial)

    def of(self, service: str | None) -> list[Denial]:
        """Oldest first; of every service if None."""
        return [each for each in self._kept if service in (None, each.service)]
