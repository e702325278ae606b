"""How many instances a release has, and when another is started: what scale.py decides, done."""

from __future__ import annotations

import time
from typing import Final

from fildes.daemon.peer import Peer
from fildes.kernel.loop import Loop, Timer
from fildes.orchestrator import scale, wishes
from fildes.orchestrator.commands import Commands
from fildes.orchestrator.crew import Crew
from fildes.orchestrator.doorway import Doorway
from fildes.orchestrator.instances import Instance
from fildes.orchestrator.life import Said
from fildes.orchestrator.nursery import Nursery
from fildes.orchestrator.orders import Orders
from fildes.orchestrator.plan import Event, State
from fildes.orchestrator.resources import Resources
from fildes.wire import log
from fildes.wire.catalogue import Release

ZYGOTE_IDLE: Final = 900.0  # seconds without an instance after which a zygote ends
PRESSED: Final = 0.02  # seconds that something must wait while all are full: one of them may have room by then


class Staffing:
    """What a release has, and how it is. `supervised` adds what becomes of it."""

    crew: Crew
    commands: Commands
    nursery: Nursery
    orders: Orders
    _doorway: Doorway

    def __init__(self, loop: Loop, peer: Peer, resources: Resources, release: Release) -> None:
        self._loop, self._peer, self._resources = loop, peer, resources
        self.release = release
        self.state = State.ASLEEP
        self.note = ""
        self.crashes = 0
        self.current = False  # else it is a candidate
        self.frozen = resources.wishes.has(release.id, wishes.FROZEN)
        self.stopped = any(resources.wishes.has(release.id, wish) for wish in (wishes.STOPPED, wishes.DONE))
        self._resting = False  # stopped until the next request
        self._unneeded: Timer | None = None  # the zygote ends
        self._pressed: Timer | None = None  # something waits, and all are full
        self._queued = False  # it waits for its turn to load

    def _happened(self, event: Event) -> None:
        raise NotImplementedError

    def _log(self, text: str) -> None:
        self._peer.tell("log.append", log.Append(self.release.service, text))

    # — while nobody runs —

    def _watch(self) -> None:
        """Wait for somebody who wants it."""
        if self.state is State.WARM and self._unneeded is None and not self.frozen:
            self._unneeded = self._loop.call_later(0.0 if self.stopped else ZYGOTE_IDLE, self._unused)
        if not (self.frozen or self.stopped):
            self._doorway.watch(self._wanted)

    def _wanted(self) -> None:
        self._resting = False
        self.orders.wanted_at = time.monotonic()
        self._happened(Event.WANTED)

    def _unused(self) -> None:
        self._unneeded = None
        if self.commands:
            self._unneeded = self._loop.call_later(ZYGOTE_IDLE, self._unused)
        else:
            self._happened(Event.UNUSED)

    def _needed(self) -> None:
        if self._unneeded is not None:
            self._unneeded.cancel()
            self._unneeded = None

    # — how many —

    def bounds(self) -> scale.Bounds:
        """What can't be forked is one process."""
        return scale.bounds(self.release, forks=self.nursery.threads == 1, standing=self._standing())

    def _standing(self) -> bool:
        """Whether instances are to run, or to stand by, though nobody asks for one."""
        return (
            self.current
            and not (self.stopped or self.frozen or self._resting)
            and scale.stands(self.release.runtime, self.release.limits.spares)
        )

    def _seen(self) -> scale.Seen:
        return scale.Seen.of(self.crew.stages(), self.orders.waiting)

    def _on_word(self, instance: Instance, said: Said) -> None:
        if said is Said.RESTS and scale.surplus(self.bounds(), self._seen()):
            instance.drain()
        self.consider()

    def consider(self) -> None:
        """Whether there are enough instances, and whether to look at the queue."""
        if self.state is State.ASLEEP and self._standing():
            if not self._queued:
                self._queued = True
                self._loop.spawn(self._load_in_turn())
        elif self.state is State.WARM and self._standing():
            self._happened(Event.WANTED)
        elif self.state is State.RUNNING and not self.frozen:
            for _ in range(scale.starts(self.bounds(), self._seen())):
                self._start()
            self._look()

    async def _load_in_turn(self) -> None:
        """Nobody waits for it: a few such loads at a time."""
        pace = self._resources.pace
        await pace.take()
        try:
            self._queued = False
            if self.state is State.ASLEEP and self._standing():
                self._happened(Event.WANTED)
                await self.nursery.settled()
                await self.orders.first()
        finally:
            pace.give()

    def _look(self) -> None:
        if self._pressed is not None or self.state is not State.RUNNING or self.frozen:
            return  # the queue is looked at again in a moment, or when it goes on
        if not self.stopped and scale.watches(self.bounds(), self._seen()):
            self._doorway.watch(self._waits)
        else:
            self._doorway.unwatch()

    def _waits(self) -> None:
        self.orders.wanted_at = time.monotonic()
        self._pressed = self._loop.call_later(PRESSED, self._still_waits)

    def _still_waits(self) -> None:
        self._pressed = None
        if self.state is State.RUNNING and not self.frozen:
            for _ in range(scale.starts(self.bounds(), self._seen(), self._doorway.waiting())):
                self._start()
            self._look()

    def _start(self) -> None:
        self._needed()
        self._doorway.unwatch()
        self.orders.more()
