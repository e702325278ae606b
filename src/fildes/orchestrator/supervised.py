"""One release and its processes: what plan.py says is to be done, done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from fildes.daemon.peer import Peer, Refused
from fildes.daemon.store import Deposit, Store
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop, Timer
from fildes.orchestrator import freezing, plan, wishes
from fildes.orchestrator.commands import Commands
from fildes.orchestrator.crew import Crew
from fildes.orchestrator.doorway import Doorway
from fildes.orchestrator.instances import BLOB, Instance
from fildes.orchestrator.nursery import Nursery
from fildes.orchestrator.orders import Orders
from fildes.orchestrator.plan import Do, Event, State
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.steered import Steered
from fildes.orchestrator.stock import Stock
from fildes.wire import web
from fildes.wire.catalogue import Release

DRAIN: Final = 30.0  # seconds that an old release's instance has to finish
STOP_LIMIT: Final = 2.0  # seconds that an instance has to finish when it is told to stop
LEAST_LIFE: Final = 1.0  # seconds within which an instance that ends and leaves connections waiting has crashed


class Supervised(Steered):
    def __init__(self, loop: Loop, peer: Peer, store: Store, resources: Resources, release: Release) -> None:
        super().__init__(loop, peer, resources, release)
        self.on_retired: Callable[[], object] = lambda: None
        self._doorway = Doorway(loop, peer, store, release)
        self.crew = Crew(loop, peer, store, resources, release)
        self.crew.on_over = self._instance_over
        self.crew.on_word = self._on_word
        self.nursery = Nursery(
            loop,
            peer,
            store,
            resources,
            release,
            loaded=self._on_loaded,
            failed=self._did_not_load,
            gone=self._on_zygote_gone,
            exited=self._on_exited,
        )
        self.commands = Commands(loop, peer, store, resources, release)
        self.commands.on_empty = self._commands_over
        self._stock = Stock(loop, peer, store, resources, release, self._no_kit, self._outdate, self._has_room)
        self.orders = Orders(
            loop,
            self._stock,
            self.crew,
            self._doorway,
            zygote=lambda: self.nursery.zygote if self.state is State.RUNNING and not self.frozen else None,
            none=self._no_order,
            empty=lambda: self._over(Event.CRASHED),
        )
        self._intensity = plan.Intensity()
        self._load_failures = plan.Intensity(most=2, period=120.0)
        self._timer: Timer | None = None
        self._leaving = False  # DRAIN runs

    # — what others ask —

    def conveyor_end(self) -> Fd:
        """A duplicate of the sending end; the conveyor is made at the first call. Raises Refused when halted."""
        if self.state in (State.HALTED, State.RETIRED):
            raise Refused("halted", self.note or "this release was replaced")
        if self.stopped:
            raise Refused("halted", self._why_stopped())
        end = self._doorway.sending()
        if self.state in (State.ASLEEP, State.WARM):  # it may be a new one
            self._watch()
        self._look()
        return end

    def retire(self) -> None:
        """Another release is current, or the service is gone: finish, then end."""
        self._peer.tell("web.retired", web.Retired(self.release.id))
        self.current = False
        self.thaw()
        self._happened(Event.RETIRE)
        if self.nursery.zygote is None and not self.crew:
            self._end_now()

    def renew(self) -> None:
        """What its grants open may be another now (a secret was set): what lies in stock is not given out any more."""
        self._stock.empty()
        self._prepare()

    def reopen(self) -> None:
        """The door was told that this release takes nothing any more."""
        self._doorway.announce()
        self._watch()

    def step_aside(self) -> None:
        """A retired release is wanted again before it has ended: another Supervised has its conveyor, its cgroup and
        its places in the store from now on; this one finishes what it has."""
        self._doorway.drop()
        for instance in self.crew:
            instance.forget()
        self.commands.forget()
        self.nursery.step_aside(self._loop.time() + DRAIN)

    # — the plan, carried out —

    def _happened(self, event: Event) -> None:
        self.state, actions = plan.step(self.state, event)
        for action in actions:
            _CARRY_OUT[action](self)
        if self.state in (State.ASLEEP, State.WARM) and self._standing():
            self._loop.call_soon(self.consider)

    def _launch(self) -> None:
        self.nursery.launch()

    def _on_loaded(self) -> None:
        self._note_threads()
        self._happened(Event.LOADED)
        self._prepare()

    def _note_threads(self) -> None:
        if self.nursery.threads > 1:
            self.note = "it starts threads while it loads, so each instance loads it anew: starts are slower"

    def _did_not_load(self, why: str) -> None:
        if self.state is not State.LOADING:
            return
        self.note = why
        self._log(why)
        if self._load_failures.crashed(self._loop.time()):
            self._halt(why)
        else:
            self._happened(Event.LOAD_FAILED)

    # — instances —

    def _prepare(self) -> None:
        if self.nursery.zygote is not None and self.state in (State.WARM, State.RUNNING):
            self._stock.fill(self.nursery.zygote)

    def _has_room(self) -> bool:
        """Whether somebody may soon need one instance more."""
        if self.stopped or self.frozen or self.orders.waiting or self.state not in (State.WARM, State.RUNNING):
            return False
        return len(self.crew) < self.bounds().most

    def _no_kit(self, why: str) -> None:
        self.note = why
        self._log(why)

    def _outdate(self) -> None:
        """A secret was changed since the program was loaded, which may have read it: it is loaded anew, when nobody
        runs.
        """
        if self.nursery.zygote is not None:
            self.nursery.zygote.outdated = True
        if not self.crew and not self.orders.waiting:
            self._on_zygote_gone(expected=True)

    def _no_order(self, why: str) -> None:
        self.note = why
        self._on_zygote_gone()  # another order would fare no better

    # — what happens to it —

    def _on_exited(self, message: dict[str, Any]) -> None:
        if not self.commands.on_exited(message):
            self.crew.on_exit_word(message)

    def _instance_over(self, instance: Instance) -> None:
        status = instance.status if instance.status is not None else 0 if instance.idle or instance.stopping else 9
        fine = instance.stopping or ((instance.idle or status == 0) and not self._left_undone(instance))
        if self.release.runtime == "service" and not instance.stopping:
            fine = instance.status == 0  # its main has returned: it is done
            if fine:
                self._stop_for_good(wishes.DONE)
        reason = plan.exit_sentence(status, self.nursery.new_oom_kills())
        self.crew.remove(instance, reason)
        if not self.crew and self.state is State.RUNNING:
            self._clear_timer()
        if not fine:
            self.crashes += 1
            self.note = f"the last instance ended: {reason}"
            self._log(f"instance {instance.name} ended: {reason}")
        self._over(Event.ENDED if fine else Event.CRASHED)

    def _left_undone(self, instance: Instance) -> bool:
        """It ended at once, and what it was started for still waits: the next would do the same, as fast as we can."""
        soon = time.monotonic() - instance.timeline["ordered"] < LEAST_LIFE
        return soon and bool(self._doorway.waiting())

    def _over(self, event: Event) -> None:
        """An instance ended, or could not be started. What the plan is told is the end of the last one."""
        if event is Event.CRASHED and self.state is State.RUNNING and self._intensity.crashed(self._loop.time()):
            most, period = self._intensity.most, self._intensity.period
            self._halt(f"it crashed more than {most} times in {period:g} s and was stopped; {self.note}")
            return
        if not self.crew and not self.orders.waiting:
            self._happened(event)
        zygote = self.nursery.zygote
        if zygote is not None and (
            zygote.threads > 1 or (zygote.outdated and not self.crew and not self.orders.waiting)
        ):
            self._on_zygote_gone(expected=True)
        else:
            self._prepare()
            self.consider()

    def _halt(self, why: str) -> None:
        self.note = f"{why}; publish a mended version, or: fildes start {self.release.service}"
        self._log(self.note)
        self._peer.tell("web.retired", web.Retired(self.release.id, f"{self.release.service}: {why}"[:BLOB]))
        self._doorway.keep(self.note)
        self._happened(Event.TOO_MANY)

    def _on_zygote_gone(self, *, expected: bool = False) -> None:
        zygote = self.nursery.zygote
        if zygote is None:
            return
        if self.crew and zygote.threads > 1:  # they are one process
            self.crew.explain(zygote.status if zygote.status is not None else 9)
            return
        oom = self.nursery.new_oom_kills()
        if self.crew:
            reason = plan.exit_sentence(zygote.status or 9, oom)
            for instance in self.crew:
                self.crew.remove(instance, reason)
            self.note = f"its zygote ended, and its instances with it: {reason}"
            self.crashes += 1
        elif not expected:
            self.note = "its zygote ended"
        if not expected:
            self._log(self.note)
        self._drop_zygote()
        if not expected and self._intensity.crashed(self._loop.time()):
            self._halt(f"it crashed too often; {self.note}")
        else:
            self._happened(Event.ZYGOTE_GONE)

    # — ending —

    def _end(self) -> None:
        """Kill what runs; but of a retired release commands have their time, as instances had theirs."""
        if self.state is State.RETIRED and self.commands and self.nursery.zygote is not None:
            if not self._leaving:
                self._leaving = True
                self._set_timer(DRAIN, self._end_now)
        else:
            self._end_now()

    def _commands_over(self) -> None:
        if self.state is State.RETIRED and not self.crew:
            self._end_now()

    def _end_now(self) -> None:
        """Kill what runs, at once. The release itself stays, unless it is retired."""
        self._needed()
        self._clear_timer()
        if self.frozen:
            freezing.thaw(self.nursery.zygote, self.crew)  # in a frozen cgroup (v1) nobody dies
        for instance in self.crew:
            self.crew.remove(instance, "it was stopped")
        self._drop_zygote()
        if self.state is State.RETIRED:
            self._doorway.drop()
            self.on_retired()

    def _drop_zygote(self) -> None:
        self.orders.cancel()
        self.nursery.drop()
        self._stock.empty()

    def _hand_back(self) -> None:
        self._doorway.hand_back()
        if self.state is State.HALTED:
            self._doorway.watch(self._wanted)

    def _dismiss(self) -> None:
        self.orders.cancel()
        told = list(self.crew)
        for instance in told:
            instance.drain()
        if told:
            self._set_timer(STOP_LIMIT, lambda: self._insist(told))
        else:  # ordered, and not started yet
            self._happened(Event.ENDED)

    def _insist(self, told: list[Instance]) -> None:
        for instance in told:
            if instance not in self.crew:
                continue
            instance.kill()
            if instance.pid < 0 and self.nursery.zygote is not None:
                self.nursery.zygote.kill()  # it never said who it is: it ends with all that its release runs

    def _drain(self) -> None:
        self.orders.cancel()
        if not self.crew:
            self._loop.call_soon(self._end_drained)
            return
        if not all(instance.stopping for instance in self.crew):  # else they have less time already
            for instance in self.crew:
                instance.drain()
            self._leaving = True
            self._set_timer(DRAIN, self._end_now)

    def _end_drained(self) -> None:
        if self.state in (State.RETIRED, State.HALTED):
            self._end()

    # — a restart of this daemon —

    def adopt_conveyor(self, deposit: Deposit) -> None:
        halted = self._doorway.adopt(deposit)
        if halted:
            self.state, self.note = State.HALTED, halted

    def adopt_zygote(self, deposit: Deposit, threads: int) -> None:
        self.nursery.adopt(deposit, threads)
        self._note_threads()
        if self.state is State.ASLEEP:
            self.state = State.WARM

    def adopt_command(self, deposit: Deposit, name: str) -> None:
        self.commands.adopt(deposit, name, self.nursery.zygote)

    def adopt_instance(self, deposit: Deposit, name: str) -> None:
        self.crew.adopt(deposit, name, self.nursery.zygote)
        if self.crew and self.state is State.WARM:
            self.state = State.RUNNING

    def resume(self) -> None:
        """After everything was adopted, or thawed: go on."""
        if self.state is State.RUNNING and not self.crew and not self.orders.waiting:
            self._happened(Event.ENDED)
        if self.state in (State.ASLEEP, State.WARM):
            self._watch()
        elif self.state is State.HALTED:
            self._hand_back()
            self._drain()
        self._prepare()
        self.consider()

    # — small things —

    def _set_timer(self, seconds: float, callback: Callable[[], object]) -> None:
        """One at a time: what instances have that are to end."""
        self._clear_timer()
        self._timer = self._loop.call_later(seconds, callback)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_CARRY_OUT: Final[dict[Do, Callable[[Supervised], None]]] = {
    Do.LAUNCH: Supervised._launch,
    Do.START: Supervised._start,
    Do.WATCH: Supervised._watch,
    Do.END: Supervised._end,
    Do.HAND_BACK: Supervised._hand_back,
    Do.DRAIN: Supervised._drain,
    Do.DISMISS: Supervised._dismiss,
}
