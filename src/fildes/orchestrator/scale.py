"""How many instances a release should have: a decision, no I/O.

Instances of a release take connections from one queue, each as long as it has room; what it can't take lies there for
the others. So the queue is looked at only while nobody has room: what is in it then, is what another instance is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from fildes.orchestrator.life import Stage
from fildes.wire.catalogue import Release


@dataclass(frozen=True)
class Bounds:
    """`most` instances at a time; `standing` have room at any time; `concurrency` requests in one."""

    most: int
    standing: int = 0
    concurrency: int = 1


def stands(runtime: str, spares: int) -> bool:
    """Whether a release has instances that nobody asks for: spares, or the one of a `service`."""
    return runtime == "service" or (runtime != "static" and spares > 0)


def bounds(release: Release, *, forks: bool = True, standing: bool = True) -> Bounds:
    """A `service` is one instance; so is what can't be forked."""
    limits = release.limits
    most = limits.instances if forks and release.runtime != "service" else 1
    spares = 1 if release.runtime == "service" else limits.spares
    return Bounds(most, min(spares, most) if standing else 0, limits.concurrency)


@dataclass(frozen=True)
class Seen:
    """The instances of a release, by what they do. `starting` counts those that are about to be ordered."""

    starting: int = 0
    open: int = 0
    full: int = 0
    ending: int = 0

    @classmethod
    def of(cls, stages: list[Stage], ordered: int = 0) -> Seen:
        count = stages.count
        return cls(
            ordered + count(Stage.STARTING),
            count(Stage.OPEN),
            count(Stage.FULL),
            count(Stage.ENDING),
        )

    @property
    def all(self) -> int:
        return self.starting + self.open + self.full + self.ending


def starts(bounds: Bounds, seen: Seen, waiting: int = 0) -> int:
    """How many instances to start now. `waiting`: connections that lie in the queue, at the least.

    Those that stand by are kept whatever happens. For what waits, at the most as many as there are full ones: twice
    as many in each step, so that a crowd is met soon and one request too many does not start them all.
    """
    left = bounds.most - seen.all
    wanted = bounds.standing - seen.open - seen.starting
    if waiting > 0 and not seen.open and not seen.starting:
        wanted = max(wanted, min(ceil(waiting / bounds.concurrency), max(1, seen.full)))
    return max(0, min(wanted, left))


def watches(bounds: Bounds, seen: Seen) -> bool:
    """Whether to look at the queue: nobody takes from it, and somebody else could be started."""
    return not seen.open and not seen.starting and seen.all < bounds.most


def surplus(bounds: Bounds, seen: Seen) -> bool:
    """Whether an instance that nobody needs now may go: what is left is enough to stand by."""
    return seen.open > bounds.standing
