"""What to do when a daemon ends, and in which order to end them: decisions without I/O.

Supervision as in OTP's `supervisor.erl`, one for one, with one difference. A daemon that has used up its intensity is
tried on with growing pauses, and the node goes on: everything it held is in the fd store, and instances with
established connections need none of the daemons. Ending the node would turn one broken daemon into an outage of
everything. Only a node that has never served gives up: there is nothing to protect, and somebody is looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

FIRST_PAUSE: Final = 0.5  # seconds
LONGEST_PAUSE: Final = 30.0
CALM: Final = 60.0  # a daemon that ran this long starts with a clean record


class Record(NamedTuple):
    """A daemon's recent ends (seconds on one clock, oldest first), and the pause it has come to."""

    ends: tuple[float, ...] = ()
    pause: float = 0.0


class Verdict(NamedTuple):
    """`after`: seconds until the next start, None for never. `exceeded`: the intensity has been used up."""

    record: Record
    after: float | None
    exceeded: bool = False


def after_end(
    record: Record, *, started: float, now: float, clean: bool, restart: str, intensity: int, period: float
) -> Verdict:
    """A daemon ended at `now`, having run since `started`; `clean` means with status 0."""
    if restart == "temporary" or (restart == "transient" and clean):
        return Verdict(record, None)
    if now - started >= CALM:
        record = Record()
    ends = (*(end for end in record.ends if end > now - period), now)
    if len(ends) <= intensity and not record.pause:
        return Verdict(Record(ends), 0.0)
    pause = min(record.pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
    return Verdict(Record(ends, pause), pause, True)


def closing_order(started: Sequence[str]) -> list[str]:
    """The reverse of the start: doors first, so that nothing new comes in while the rest closes."""
    return list(reversed(started))


def describe_status(status: int) -> str:
    """A wait(2) status in words: "with status 1", "by signal 9"."""
    signal = status & 0x7F
    return f"by signal {signal}" if signal else f"with status {status >> 8 & 0xFF}"
