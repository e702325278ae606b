"""How many instances a release should have: a decision, no I/O.

Instances of a release take connections from one queue, each as long as it has room; what it can't take lies there for
the others. So the queue is looked at only while nobody has room: what is in it then, is what another instance is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from fildes.orchestrator.life import Stage


@dataclass(frozen=True)
class Bounds:
    """`most` instances at a time; `standing` have room at any time; `concurrency` requests in one."""

    most: int
    standing: int = 0
    concurrency: int = 1


@dataclass(frozen=True)
class Seen:
    """The instances of a release, by what they do. `starting` counts those that are about to be ordered."""

    starting: int = 0
    open: int = 0
    full: int = 0
    idle: int = 0
    ending: int = 0

    @classmethod
    def of(cls, stages: list[Stage], ordered: int = 0) -> Seen:
        count = stages.count
        return cls(
            ordered + count(Stage.STARTING),
            count(Stage.OPEN),
            count(Stage.FULL),
            count(Stage.IDLE),
            count(Stage.ENDING),
        )

    @property
    def all(self) -> int:
        return self.starting + self.room + self.full + self.ending

    @property
    def room(self) -> int:
        """Those that take what comes now."""
        return self.open + self.idle


def starts(bounds: Bounds, seen: Seen, waiting: int = 0) -> int:
    """How many instances to start now. `waiting`: connections that lie in the queue, at the least.

    Those that stand by are kept whatever happens. For what waits, at the most as many as there are full ones: twice
    as many in each step, so that a crowd is met soon and one request too many does not start them all.
    """
    left = bounds.most - seen.all
    wanted = bounds.standing - seen.room - seen.starting
    if waiting > 0 and not seen.room and not seen.starting:
        wanted = max(wanted, min(ceil(waiting / bounds.concurrency), max(1, seen.full)))
    return max(0, min(wanted, left))


def watches(bounds: Bounds, seen: Seen) -> bool:
    """Whether to look at the queue: nobody takes from it, and somebody else could be started."""
    return not seen.room and not seen.starting and seen.all < bounds.most


def ends(bounds: Bounds, seen: Seen) -> int:
    """How many of the idle ones may go: what stays is enough to stand by."""
    return max(0, min(seen.idle, seen.room - bounds.standing))
