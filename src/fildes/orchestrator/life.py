"""The life of one instance as a table: (stage, what happened) → stage. No I/O.

What is not in the table changes nothing: a word that comes late, or that a program makes up.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Stage(StrEnum):
    STARTING = "starting"  # ordered; it has not said that it serves
    OPEN = "open"  # it takes what comes on the conveyor
    FULL = "full"  # it takes nothing until some of its requests are done
    ENDING = "ending"  # told to end, or it said that it does


class Said(StrEnum):
    """The words of runtime/kit.py that tell how it is; TOLD is ours, not its."""

    READY = "R"
    FULL = "F"
    OPEN = "O"
    IDLE = "I"  # it ends for idleness
    RESTS = "Z"  # idle, and goes on
    TOLD = "told to end"


S, W = Stage, Said

TABLE: Final[dict[tuple[Stage, Said], Stage]] = {
    (S.STARTING, W.READY): S.OPEN,
    (S.STARTING, W.FULL): S.FULL,  # full with what it was started for
    (S.OPEN, W.FULL): S.FULL,
    (S.FULL, W.OPEN): S.OPEN,
    **{(stage, W.IDLE): S.ENDING for stage in Stage},
    **{(stage, W.TOLD): S.ENDING for stage in Stage},
}


def after(stage: Stage, said: Said) -> Stage:
    return TABLE.get((stage, said), stage)
