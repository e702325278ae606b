"""What an operator may say of a release: stop, start, freeze, thaw."""

from __future__ import annotations

import time
from typing import Final

from fildes.daemon.peer import Refused
from fildes.orchestrator import freezing, plan, wishes
from fildes.orchestrator.instances import Instance
from fildes.orchestrator.plan import Event, State
from fildes.orchestrator.staffing import Staffing
from fildes.orchestrator.zygotes import Zygote
from fildes.wire import web

READY_LIMIT: Final = 30.0  # seconds that a first instance may take until it serves


class Steered(Staffing):
    """What a release is told to do. `supervised` adds what happens to it by itself."""

    _intensity: plan.Intensity
    _load_failures: plan.Intensity

    def resume(self) -> None:
        raise NotImplementedError

    def _end_now(self) -> None:
        raise NotImplementedError

    async def warm(self) -> Zygote:
        """Its zygote, loaded if there is none. Raises Refused when it did not load."""
        if self.state is State.ASLEEP:
            self._happened(Event.WANTED)
        await self.nursery.settled()
        if self.nursery.zygote is None:
            raise Refused("warm", self.note)
        return self.nursery.zygote

    async def prove(self) -> dict[str, float]:
        """Load the program and start one instance of it. Raises Refused with the reason. Milliseconds by phase."""
        zygote = await self.warm()
        phases = dict(zygote.phases)
        began = time.monotonic()
        self._doorway.open()
        if self.state is State.WARM:
            self._happened(Event.WANTED)
        await self.orders.first()
        instance = next(iter(self.crew), None)
        if not (instance is not None and await self._ready(instance)) and not self._done():
            raise Refused("warm", self._did_not_start())
        phases["start"] = (time.monotonic() - began) * 1e3
        return phases

    async def _ready(self, instance: Instance) -> bool:
        timer = self._loop.call_later(READY_LIMIT, lambda: self._too_slow(instance))
        try:
            return await instance.ready
        finally:
            timer.cancel()

    def _done(self) -> bool:
        """Has a service's main returned? That may be before anybody heard that it was ready."""
        return self._resources.wishes.has(self.release.id, wishes.DONE)

    def _too_slow(self, instance: Instance) -> None:
        self.note = f"it was not ready to serve within {READY_LIMIT:g} s after its start"
        if instance in self.crew:
            self._end_now()
            self._happened(Event.ZYGOTE_GONE)

    def _did_not_start(self) -> str:
        name = self.release.service
        return f"{name} did not start: {self.note or 'it ended'}; what it printed shows: fildes logs {name}"

    async def stop(self) -> int:
        """End its instances, or the zygote if there are none, and forget its crashes. How many instances there were.

        A `service` stays so until `start`; others are started by the next request.
        """
        self._resting = True
        if self.release.runtime == "service":
            self._stop_for_good(wishes.STOPPED)
        self.thaw()
        self.commands.end()
        await self.commands.ended()
        ending = list(self.crew)
        shut = self.state is State.HALTED
        self._happened(Event.STOP)
        self._absolve(shut)
        for instance in ending:
            await instance.over
        return len(ending)

    async def start(self) -> int:
        """Forget that it was stopped, or halted, and run. How many instances there are. Raises Refused."""
        if self.frozen:
            raise Refused("frozen", f"{self.release.service} is frozen; first: fildes thaw {self.release.service}")
        self._resting = False
        shut = self.stopped or self.state is State.HALTED
        self.stopped = False
        for wish in (wishes.STOPPED, wishes.DONE):
            self._resources.wishes.set(self.release.id, wish, False)
        if self.state is State.HALTED:
            self._happened(Event.STOP)
        self._absolve(shut)
        await self.prove()
        return len(self.crew)

    def _absolve(self, shut: bool) -> None:
        """Crashes are forgotten; the door, if it was told that nothing is taken any more, has the conveyor again."""
        self._intensity.forget()
        self._load_failures.forget()
        self.note = ""
        if shut and self._doorway and not self.stopped:
            self._doorway.announce()
            self._doorway.keep()

    def _stop_for_good(self, wish: str) -> None:
        """Until `start`, or another release."""
        self.stopped = True
        self._resources.wishes.set(self.release.id, wish, True)
        self._peer.tell("web.retired", web.Retired(self.release.id, self._why_stopped()))
        self._doorway.unwatch()
        self._doorway.hand_back()

    def _why_stopped(self) -> str:
        return f"{self.release.service} does not run; start it again: fildes start {self.release.service}"

    async def freeze(self) -> int:
        """All its processes stand still until `thaw`; who comes meanwhile waits. How many instances there are."""
        if self.state is State.HALTED:
            raise Refused("halted", self.note)
        self.frozen = True
        await self.nursery.settled()  # a load has a time limit, and none of the wall clock's is stopped
        if self.frozen and self.state is not State.RETIRED:
            try:
                freezing.freeze(self.nursery.zygote, self.crew)
            except OSError as error:
                self.frozen = False
                raise Refused("internal", f"{self.release.service} could not be frozen: {error}") from error
            self._resources.wishes.set(self.release.id, wishes.FROZEN, True)
            self.orders.cancel()
            self._needed()
            self._doorway.unwatch()
        return len(self.crew)

    def thaw(self) -> int:
        if self.frozen:
            self.frozen = False
            freezing.thaw(self.nursery.zygote, self.crew)
            self._resources.wishes.set(self.release.id, wishes.FROZEN, False)
            self.resume()
        return len(self.crew)
