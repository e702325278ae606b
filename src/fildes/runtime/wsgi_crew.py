"""The threads of an instance whose program blocks: one leads, the others are in calls of the program, or rest.

The leader waits for events and answers requests itself, one after the other: most calls take microseconds, and handing
each to another thread would cost more than the call. The main thread watches. A call that outlasts a TICK loses the
lead: a thread that rests, or a new one, goes on with the events, and the one in the call comes back when it has ended.
While calls are slow one after the other the lead is passed on before each, so that they do not wait for a TICK.

    slot      holds the leader's call while the lead may be taken from it. Who pops it decides, so it happens once.
    baton     locked; released to wake one thread that rests, which then leads
    bell      locked; released to wake the main thread

Nothing here polls a clock by itself: without events and without connections no thread wakes up before the idle end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

TICK = 0.005  # s
SLOW = 16  # quick calls in a row after which a program that was slow is taken for a quick one again
SWEEP = 2.0  # s between looks for whoever waits too long
SPARE = 4  # the part of the tasks that is left to the program's own threads: a quarter

_COARSE = getattr(time, "CLOCK_MONOTONIC_COARSE", 6)  # clock_gettime(2); Python has no name for it


def now() -> float:
    """Seconds, to a few milliseconds. In an instance the exact clock takes a detour by a signal handler."""
    return time.clock_gettime(_COARSE)


class Held(Protocol):
    """A call in the slot."""

    def lose(self, now: float) -> None:
        """The lead is taken from its thread; the crew's lock is held."""


class Work(Protocol):
    """What the crew is there for."""

    def lead(self) -> None:
        """Serve; returns when the lead was lost and the call that cost it has ended, or when all is over."""

    def tick(self, now: float) -> float:
        """The main thread's round: seconds until it is to come again. Sets `crew.over` when there is no more to do."""


class Crew:
    def __init__(self, work: Work, concurrency: int, tasks: int | None) -> None:
        self.work = work
        # Besides those in calls there are the main thread and the leader.
        self.most = concurrency + 1 if tasks is None else max(1, min(concurrency + 1, tasks - 1 - tasks // SPARE))
        self.limit = max(1, min(concurrency, self.most - 1))  # calls at once
        self.lock = threading.Lock()
        self.slot: list[Held] = []
        self.turn = 0  # calls that leaders have begun
        self.running = 0  # calls that are not the leader's
        self.inside = False  # the leader is in a call
        self.slow = 0
        self.now = 0.0
        self.asleep = False  # the main thread waits for longer than a TICK
        self.polling = False  # the leader may be waiting for events
        self.over = False
        self.failure: BaseException | None = None
        self._led = False
        self._threads = 0
        self._resting = 0
        self._baton = threading.Lock()
        self._baton.acquire()
        self._bell = threading.Lock()
        self._bell.acquire()
        self.kick: Callable[[], object] = int  # wakes the leader; the serving puts its own here

    # The main thread

    def run(self) -> None:
        """Until all is over. Raises what ended it: SystemExit, or an error in the serving itself."""
        self.now = now()
        with self.lock:
            self._led = True
            self._enlist()
        turn, quiet, wait = 0, 0, TICK
        while not self.over:
            self._bell.acquire(timeout=wait)
            self.asleep = False
            self.now = now()
            if self.slot and self.turn == turn:
                self._depose()
            quiet = 0 if self.turn != turn or self.slot else quiet + 1
            turn = self.turn
            longer = self.work.tick(self.now)
            if self.over:
                break
            wait = TICK
            if quiet >= 2:
                self.asleep = True
                if not self.slot and self.turn == turn:  # else something began just now
                    wait = longer
        if self.failure is not None:
            raise self.failure

    def rouse(self) -> None:
        """Wake the main thread. The leader does when it begins a call."""
        self.asleep = False
        self.now = now()
        self.ring()

    def ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:  # it rings already
            return

    def end(self, failure: BaseException | None = None) -> None:
        self.failure = self.failure or failure
        self.over = True
        self.ring()

    # The lead

    def _depose(self) -> None:
        with self.lock:
            try:
                held = self.slot.pop()
            except IndexError:
                return  # it has just ended
            held.lose(self.now)
            self.inside = False
            self.slow = SLOW
            self.pass_on()

    def pass_on(self) -> None:
        """The leader goes into a call as one of many; the lock is held. Where no thread is to be had, nobody leads."""
        self.running += 1
        if self._resting:
            self._resting -= 1
            self._baton.release()
        elif self._threads >= self.most or not self._enlist():
            self._led = False

    def judge(self, took: float) -> None:
        """A call for which the lead was passed on before it has ended; the lock is held."""
        self.slow = SLOW if took > TICK else self.slow - 1 if self.slow else 0

    def _enlist(self) -> bool:
        thread = threading.Thread(target=self._serve, name=f"request-{self._threads + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the limit on tasks
            if not self._threads:
                raise
            if self.most != self._threads:
                print(f"fildes: {error}; requests are answered by {self._threads}", file=sys.stderr)
            self.most = self._threads
            self.limit = max(1, self._threads - 1)
            return False
        self._threads += 1
        return True

    def _serve(self) -> None:
        try:
            while True:
                self.work.lead()
                if self.over:
                    return
                with self.lock:
                    self.running -= 1
                    rests = self._led
                    if rests:
                        self._resting += 1
                    self._led = True
                if rests:
                    self.kick()  # there is room for a call more
                    self._baton.acquire()
        except BaseException as error:
            self.end(error)


def make_kick(crew: Crew, number: int) -> Callable[[], None]:
    """`number`: an eventfd that the leader polls."""

    def kick() -> None:
        if crew.polling:
            os.eventfd_write(number, 1)

    return kick
