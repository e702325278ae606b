"""The life of a release as a table: (state, event) → (next state, what to do). No I/O.

That of each of its instances is in life.py, and how many there are, decides scale.py.

What is not in the table cannot happen or changes nothing: an event that comes late finds its release elsewhere.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final


class State(StrEnum):
    ASLEEP = "asleep"  # no process; its conveyor is watched if it exists
    LOADING = "loading"  # a zygote runs the program's imports
    WARM = "warm"  # a zygote waits behind the ratchet
    RUNNING = "running"  # instances were ordered or serve
    HALTED = "halted"  # crashed too often; connections are handed back to the door
    RETIRED = "retired"  # another release is current, or the service was removed


class Event(StrEnum):
    WANTED = "wanted"  # a connection waits on the conveyor, or the release is to be warmed
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    ENDED = "ended"  # the last instance ended by itself, or was told to: idle, drained, stopped
    CRASHED = "crashed"  # the last instance ended otherwise
    ZYGOTE_GONE = "zygote gone"
    TOO_MANY = "too many crashes"
    UNUSED = "unused"  # the zygote was idle for its time
    STOP = "stop"  # somebody said so
    RETIRE = "retire"


class Do(StrEnum):
    LAUNCH = "launch a zygote"
    START = "start an instance"
    WATCH = "watch the conveyor"
    END = "end the release's processes"
    HAND_BACK = "hand what waits back to the door"
    DRAIN = "let the instances finish"
    DISMISS = "let the instances finish, but not for long"


S, E = State, Event

TABLE: Final[dict[tuple[State, Event], tuple[State, tuple[Do, ...]]]] = {
    (S.ASLEEP, E.WANTED): (S.LOADING, (Do.LAUNCH,)),
    (S.ASLEEP, E.RETIRE): (S.RETIRED, (Do.HAND_BACK,)),
    (S.LOADING, E.LOADED): (S.WARM, (Do.WATCH,)),
    (S.LOADING, E.LOAD_FAILED): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.LOADING, E.ZYGOTE_GONE): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.LOADING, E.TOO_MANY): (S.HALTED, (Do.END, Do.HAND_BACK)),
    (S.LOADING, E.STOP): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.LOADING, E.RETIRE): (S.RETIRED, (Do.END, Do.HAND_BACK)),
    (S.WARM, E.WANTED): (S.RUNNING, (Do.START,)),
    (S.WARM, E.UNUSED): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.WARM, E.ZYGOTE_GONE): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.WARM, E.TOO_MANY): (S.HALTED, (Do.END, Do.HAND_BACK)),
    (S.WARM, E.STOP): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.WARM, E.RETIRE): (S.RETIRED, (Do.END, Do.HAND_BACK)),
    (S.RUNNING, E.ENDED): (S.WARM, (Do.WATCH,)),
    (S.RUNNING, E.CRASHED): (S.WARM, (Do.WATCH,)),
    (S.RUNNING, E.TOO_MANY): (S.HALTED, (Do.DRAIN, Do.HAND_BACK)),
    (S.RUNNING, E.ZYGOTE_GONE): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.RUNNING, E.STOP): (S.RUNNING, (Do.DISMISS,)),
    (S.RUNNING, E.RETIRE): (S.RETIRED, (Do.DRAIN, Do.HAND_BACK)),
    (S.HALTED, E.WANTED): (S.HALTED, (Do.HAND_BACK,)),
    (S.HALTED, E.ENDED): (S.HALTED, (Do.END,)),
    (S.HALTED, E.CRASHED): (S.HALTED, (Do.END,)),
    (S.HALTED, E.ZYGOTE_GONE): (S.HALTED, (Do.END,)),
    (S.HALTED, E.STOP): (S.ASLEEP, (Do.END, Do.WATCH)),
    (S.HALTED, E.RETIRE): (S.RETIRED, (Do.HAND_BACK,)),
    (S.RETIRED, E.STOP): (S.RETIRED, (Do.DISMISS,)),
    (S.RETIRED, E.ENDED): (S.RETIRED, (Do.END,)),
    (S.RETIRED, E.CRASHED): (S.RETIRED, (Do.END,)),
    (S.RETIRED, E.ZYGOTE_GONE): (S.RETIRED, (Do.END,)),
    (S.RETIRED, E.LOADED): (S.RETIRED, (Do.END,)),
    (S.RETIRED, E.WANTED): (S.RETIRED, (Do.HAND_BACK,)),
}


def step(state: State, event: Event) -> tuple[State, tuple[Do, ...]]:
    return TABLE.get((state, event), (state, ()))


class Intensity:
    """At most `most` crashes within `period` seconds, as in OTP's supervisor."""

    def __init__(self, most: int = 5, period: float = 10.0) -> None:
        self.most, self.period = most, period
        self._times: deque[float] = deque()

    def crashed(self, now: float) -> bool:
        """Note a crash at `now` (seconds); whether that was one too many."""
        self._times.append(now)
        while self._times and self._times[0] <= now - self.period:
            self._times.popleft()
        return len(self._times) > self.most

    def forget(self) -> None:
        self._times.clear()


def exit_sentence(status: int, oom_kills: int = 0) -> str:
    """A waitpid(2) status as people say it."""
    signal_number, code = status & 0x7F, status >> 8 & 0xFF
    if oom_kills and signal_number == 9:
        return "it was killed because it used more memory than [limits] memory allows"
    if signal_number == 31:
        return "it was killed by SIGSYS: it made a call that its profile refuses"
    if signal_number:
        import signal

        try:
            name = signal.Signals(signal_number).name
        except ValueError:
            name = f"signal {signal_number}"
        return f"it was killed by {name}"
    return f"it exited with status {code}"
