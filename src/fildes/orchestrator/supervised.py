"""One release and its processes: what plan.py says is to be done, done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from fildes.daemon.peer import Peer, Refused
from fildes.daemon.store import Deposit, Store
from fildes.kernel import fds
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop, Task, Timer
from fildes.orchestrator import loading, plan
from fildes.orchestrator.conveyor import Conveyor
from fildes.orchestrator.instances import BLOB, Instance, Kit, never_started
from fildes.orchestrator.plan import Do, Event, State
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.stock import Stock
from fildes.orchestrator.zygotes import Zygote
from fildes.wire import log, web
from fildes.wire.catalogue import Release

ZYGOTE_IDLE: Final = 900.0  # seconds without an instance after which a zygote ends
DRAIN: Final = 30.0  # seconds that an old release's instance has to finish
RESTOCK: Final = 0.25  # seconds after a start: not while others are being started too
STOP_LIMIT: Final = 2.0  # seconds that an instance has to finish when it is told to stop
LEAST_LIFE: Final = 1.0  # seconds within which an instance that ends and leaves connections waiting has crashed
READY_LIMIT: Final = 30.0  # seconds that a first instance may take until it serves
EXIT_WORD: Final = 0.25  # seconds to wait for the zygote's word on how an instance ended


class Supervised:
    def __init__(self, loop: Loop, peer: Peer, store: Store, resources: Resources, release: Release) -> None:
        self._loop, self._peer, self._store, self._resources = loop, peer, store, resources
        self.release = release
        self.state = State.ASLEEP
        self.note = ""
        self.starts = self.crashes = 0
        self.zygote: Zygote | None = None
        self.instance: Instance | None = None
        self.on_retired: Callable[[], object] = lambda: None
        self._conveyor: Conveyor | None = None
        self._stock = Stock(loop, peer, store, resources, release, self._no_kit)
        self._loading: Task[None] | None = None
        self._intensity = plan.Intensity()
        self._load_failures = plan.Intensity(most=2, period=120.0)
        self._timer: Timer | None = None
        self._status: int | None = None
        self._unexplained: Timer | None = None  # the instance is gone, and the zygote has not said how
        self._oom_before = 0
        self._wanted_at = 0.0
        self._aside = False  # a successor has its name

    # — what others ask —

    def conveyor_end(self) -> Fd:
        """A duplicate of the sending end; the conveyor is made at the first call. Raises Refused when halted."""
        if self.state in (State.HALTED, State.RETIRED):
            raise Refused("halted", self.note or "this release was replaced")
        return self._conveyor_made().sending.dup()

    def _conveyor_made(self) -> Conveyor:
        if self._conveyor is not None and self._conveyor.broken:  # whoever holds the old one asks for this one
            self._conveyor.close()
            self._conveyor = None
        if self._conveyor is None:
            self._conveyor = Conveyor.make(self._loop)
            self._keep_conveyor()
            if self.state in (State.ASLEEP, State.WARM):
                self._watch()
        return self._conveyor

    def _keep_conveyor(self, halted: str = "") -> None:
        """In the store; with the reason when the release is halted: a successor must know, as the door does."""
        if self._conveyor is not None:
            ends = [self._conveyor.sending, self._conveyor.receiving]
            self._store.deposit(self._key("conveyor"), halted.encode()[:BLOB], ends)

    async def prove(self) -> dict[str, float]:
        """Load the program and start one instance of it. Raises Refused with the reason. Milliseconds by phase."""
        if self.state is State.ASLEEP:
            self._happened(Event.WANTED)
        if self._loading is not None:
            await self._loading
        if self.zygote is None:
            raise Refused("warm", self.note)
        phases = dict(self.zygote.phases)
        began = time.monotonic()
        self._conveyor_made()
        if self.state is State.WARM:
            self._happened(Event.WANTED)
        await self._until_started()
        instance = self.instance
        if instance is None:
            raise Refused("warm", self._did_not_start())
        timer = self._loop.call_later(READY_LIMIT, lambda: self._too_slow(instance))
        try:
            if not await instance.ready:
                raise Refused("warm", self._did_not_start())
        finally:
            timer.cancel()
        phases["start"] = (time.monotonic() - began) * 1e3
        return phases

    def _did_not_start(self) -> str:
        name = self.release.service
        return f"{name} did not start: {self.note or 'it ended'}; what it printed shows: fildes logs {name}"

    async def stop(self) -> int:
        """End its instance, or the zygote if there is none, and forget its crashes. How many instances there were."""
        count = int(self.instance is not None)
        self._intensity.forget()
        self._load_failures.forget()
        self.note = ""
        was_halted = self.state is State.HALTED
        self._happened(Event.STOP)
        if was_halted and self._conveyor is not None:
            self.reopen()
            self._keep_conveyor()
        if self.instance is not None:
            await self.instance.over
        return count

    def retire(self) -> None:
        """Another release is current, or the service is gone: finish, then end."""
        self._peer.tell("web.retired", web.Retired(self.release.id))
        self._happened(Event.RETIRE)
        if self.zygote is None and self.instance is None:
            self._end()

    def renew(self) -> None:
        """What its grants open may be another now (a secret was set): what lies in stock is not given out any more."""
        self._stock.empty()
        self._prepare()

    def reopen(self) -> None:
        """The door was told that this release takes nothing any more: it gets the conveyor unasked."""
        reopened = web.Conveyor(self.release.id, self.release.service)
        self._peer.tell("web.conveyor", reopened, [self._conveyor_made().sending.dup()])

    def step_aside(self) -> None:
        """A retired release is wanted again before it has ended: another Supervised has its conveyor, its cgroup and
        its places in the store from now on; this one finishes what it has."""
        self._drop_conveyor()
        if self.instance is not None:
            self.instance.forget()
        if self.zygote is not None:
            self._store.drop(loading.zygote_key(self.release, self.zygote))
            self.zygote.cgroup = None
        self._aside = True

    # — the plan, carried out —

    def _happened(self, event: Event) -> None:
        self.state, actions = plan.step(self.state, event)
        for action in actions:
            _CARRY_OUT[action](self)

    def _launch(self) -> None:
        self._loading = self._loop.spawn(self._load(self._loading))

    async def _load(self, before: Task[None] | None) -> None:
        """One at a time: one that was stopped meanwhile takes away what it made before the next begins."""
        if before is not None:
            await before
        if self.state is not State.LOADING:
            return
        try:
            zygote = await loading.load(self._loop, self._peer, self._store, self._resources, self.release)
            if self.state is not State.LOADING or self._aside:  # it was stopped or retired meanwhile
                zygote.kill()
                zygote.close()
                return
            loading.deposit(self._store, self.release, zygote)
        except Exception as error:  # also one of ours that a program provoked: the release must not stay half-loaded
            if not isinstance(error, Refused | OSError):
                self._loop.on_error(error)
            if self.state is State.LOADING:
                self._did_not_load(f"{self.release.service} did not load: {error}")
            return
        self._take_up(zygote)
        self._happened(Event.LOADED)
        self._prepare()

    def _did_not_load(self, why: str) -> None:
        self.note = why
        self._log(why)
        if self._load_failures.crashed(self._loop.time()):
            self._halt(why)
        else:
            self._happened(Event.LOAD_FAILED)

    def _take_up(self, zygote: Zygote) -> None:
        self.zygote = zygote
        self._new_oom_kills()
        if zygote.threads > 1:
            self.note = "it starts threads while it loads, so each instance loads it anew: starts are slower"
        zygote.on_exited = self._on_exit_word
        zygote.on_gone = self._on_zygote_gone

    def _watch(self) -> None:
        if self.state is State.WARM and self._timer is None:
            self._set_timer(ZYGOTE_IDLE, self._unused)
        if self._conveyor is not None:
            self._conveyor.watch(self._wanted)

    def _wanted(self) -> None:
        self._wanted_at = time.monotonic()
        self._happened(Event.WANTED)

    def _unused(self) -> None:
        self._timer = None
        self._happened(Event.UNUSED)

    def _prepare(self) -> None:
        if self.zygote is not None and self.state in (State.WARM, State.RUNNING):
            self._stock.fill(self.zygote)

    def _no_kit(self, why: str) -> None:
        self.note = why
        self._log(why)

    def _start(self) -> None:
        self._clear_timer()
        kit = self._stock.take()
        if kit is not None:
            self._start_with(kit)
        else:
            self._prepare()
            self._loop.spawn(self._start_when_prepared())

    async def _until_started(self) -> None:
        if self.instance is None:
            await self._stock.filled()
            await self._loop.sleep(0)

    async def _start_when_prepared(self) -> None:
        await self._stock.filled()
        if self.state is not State.RUNNING or self.instance is not None:
            return
        kit = self._stock.take()
        if kit is None:
            self._over(Event.CRASHED)
        else:
            self._start_with(kit)

    def _start_with(self, kit: Kit) -> None:
        if self.zygote is None:
            self._stock.discard(kit)
            return
        conveyor = self._conveyor_made()
        instance = Instance(
            self._loop, self._store, self.release.id, kit.instance, kit.ours, self.zygote.pid, kit.cgroup
        )
        instance.on_end = lambda: self._on_instance_end(instance)
        instance.held = kit.held | {fds.name(conveyor.receiving.fileno()): "runtime: conveyor"}
        instance.timeline["wanted"] = self._wanted_at
        self._status = None
        try:
            self.zygote.start(kit.instance, [("conveyor", conveyor.receiving.fileno()), *kit.named()])
        except (OSError, Refused) as error:
            self.note = f"the zygote took no order: {error}"
            self._close(instance)
            close_all(kit.given)
            self._on_zygote_gone()  # another order would fare no better
            return
        close_all(kit.given)
        self.instance = instance
        self.starts += 1
        # The next one's descriptors, once this one had time to answer.
        self._loop.call_later(RESTOCK, self._prepare)

    # — what happens to it —

    def _on_exit_word(self, message: dict[str, Any]) -> None:
        status = message.get("status")
        if self.instance is not None and message.get("instance") == self.instance.name and isinstance(status, int):
            self._status = status
            if self.instance.pid < 0:
                self._on_instance_end(self.instance)
            elif self._unexplained is not None:
                self._unexplained.cancel()
                self._unexplained = None
                self._instance_over(self.instance)

    def _on_instance_end(self, instance: Instance) -> None:
        """It is gone; the zygote, who is its parent, tells how, or keeps silent."""
        instance.on_end = lambda: None
        if self._status is None and self.zygote is not None and self.zygote.threads == 1:
            self._unexplained = self._loop.call_later(EXIT_WORD, lambda: self._instance_over(instance))
        else:
            self._loop.call_soon(lambda: self._instance_over(instance))

    def _instance_over(self, instance: Instance) -> None:
        if self.instance is not instance:
            return
        self.instance = self._unexplained = None
        if self.state is State.RUNNING:
            self._clear_timer()
        status = self._status if self._status is not None else 0 if instance.idle or instance.stopping else 9
        fine = instance.stopping or ((instance.idle or status == 0) and not self._left_undone(instance))
        reason = plan.exit_sentence(status, self._new_oom_kills())
        self._tell_died(instance, reason)
        if not fine:
            self.crashes += 1
            self.note = f"the last instance ended: {reason}"
            self._log(f"instance {instance.name} ended: {reason}")
        self._close(instance)
        self._over(Event.ENDED if fine else Event.CRASHED)

    def _left_undone(self, instance: Instance) -> bool:
        """It ended at once, and what it was started for still waits: the next would do the same, as fast as we can."""
        soon = time.monotonic() - instance.timeline["ordered"] < LEAST_LIFE
        return soon and self._conveyor is not None and self._conveyor.waiting()

    def _new_oom_kills(self) -> int:
        """How many the release has had since this was asked last."""
        if self.zygote is None or self.zygote.cgroup is None:
            return 0
        before, self._oom_before = self._oom_before, self.zygote.cgroup.oom_kills()
        return self._oom_before - before

    def _over(self, event: Event) -> None:
        if event is Event.CRASHED and self.state is State.RUNNING and self._intensity.crashed(self._loop.time()):
            most, period = self._intensity.most, self._intensity.period
            self._halt(f"it crashed more than {most} times in {period:g} s and was stopped; {self.note}")
            return
        self._happened(event)
        if self.zygote is not None and self.zygote.threads > 1:
            self._on_zygote_gone(expected=True)
        else:
            self._prepare()

    def _halt(self, why: str) -> None:
        self.note = f"{why}; publish a mended version, or: fildes stop {self.release.service}"
        self._log(self.note)
        self._peer.tell("web.retired", web.Retired(self.release.id, f"{self.release.service}: {why}"[:BLOB]))
        self._keep_conveyor(self.note)
        self._happened(Event.TOO_MANY)

    def _on_zygote_gone(self, *, expected: bool = False) -> None:
        if self.zygote is None:
            return
        if self.instance is not None and self.zygote.threads > 1:  # they are one process
            if self._status is None:
                self._status = self.zygote.status
            self._instance_over(self.instance)
            return
        oom = self._new_oom_kills()
        if self.instance is not None:
            self._status = self._status if self._status is not None else 9
            instance, self.instance = self.instance, None
            reason = plan.exit_sentence(self.zygote.status or 9, oom)
            self._tell_died(instance, reason)
            self._close(instance)
            self.note = f"its zygote ended, and its instance with it: {reason}"
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

    def _too_slow(self, instance: Instance) -> None:
        self.note = f"it was not ready to serve within {READY_LIMIT:g} s after its start"
        if self.instance is instance:
            self._end()

    # — ending —

    def _end(self) -> None:
        """Kill what runs, at once. The release itself stays, unless it is retired."""
        self._clear_timer()
        if self.instance is not None:
            instance, self.instance = self.instance, None
            self._tell_died(instance, "it was stopped")
            instance.close()
        self._drop_zygote()
        if self.state is State.RETIRED:
            self._forget()

    def _tell_died(self, instance: Instance, reason: str) -> None:
        """The door answers for what it had taken and not begun."""
        self._peer.tell("web.died", web.Died(self.release.id, instance.name, reason, max(instance.pid, 0)))

    def _close(self, instance: Instance) -> None:
        instance.close()
        self._resources.remove_cgroup(instance.cgroup)

    def _drop_zygote(self) -> None:
        if self.zygote is not None:
            zygote, self.zygote = self.zygote, None
            self._drop(zygote)
        self._stock.empty()

    def _drop(self, zygote: Zygote) -> None:
        zygote.on_gone = lambda: None  # what is said of it later is not about the next one
        zygote.kill()
        zygote.close()
        if not self._aside:
            self._store.drop(loading.zygote_key(self.release, zygote))
        self._resources.remove_cgroup(zygote.cgroup)

    def _forget(self) -> None:
        self._drop_conveyor()
        self.on_retired()

    def _drop_conveyor(self) -> None:
        if self._conveyor is not None:
            self._conveyor.hand_back()
            self._conveyor.close()
            self._conveyor = None
            self._store.drop(self._key("conveyor"))

    def _hand_back(self) -> None:
        if self._conveyor is not None:
            self._conveyor.hand_back()
            if self.state is State.HALTED:
                self._conveyor.watch(self._wanted)

    def _dismiss(self) -> None:
        if self.instance is not None:
            instance = self.instance
            instance.drain()
            self._set_timer(STOP_LIMIT, lambda: self._insist(instance))
        else:  # ordered, and not started yet
            self._happened(Event.ENDED)

    def _insist(self, instance: Instance) -> None:
        instance.kill()
        if instance.pid < 0 and self.instance is instance and self.zygote is not None:
            self.zygote.kill()  # it never said who it is: it ends with all that its release runs

    def _drain(self) -> None:
        if self.instance is None:
            self._loop.call_soon(self._end)
            return
        if not self.instance.stopping:  # else it has less time already
            self.instance.drain()
            self._set_timer(DRAIN, self._end)

    # — a restart of this daemon —

    def adopt_conveyor(self, deposit: Deposit) -> None:
        sending, receiving = deposit.fds
        self._conveyor = Conveyor(self._loop, sending, receiving)
        if deposit.blob:
            self.state, self.note = State.HALTED, deposit.blob.decode("utf-8", "replace")

    def adopt_zygote(self, deposit: Deposit, threads: int) -> None:
        pidfd, control, listener = deposit.fds
        cgroup = self._resources.cgroup_of(self.release)
        zygote = Zygote.adopt(self._loop, control, pidfd, listener, cgroup, threads, self._resources.exits)
        zygote.held = json.loads(deposit.blob)
        self._take_up(zygote)
        self.state = State.WARM

    def adopt_instance(self, deposit: Deposit, name: str) -> None:
        handle, *pidfd = deposit.fds
        if self.zygote is None or (not pidfd and never_started(handle.fileno())):
            close_all(deposit.fds)
            self._store.drop(deposit.key)
            return
        cgroup = self._resources.instance_cgroup(self.zygote.cgroup, name, self.release)
        instance = Instance(self._loop, self._store, self.release.id, name, handle, self.zygote.pid, cgroup)
        instance.on_end = lambda: self._on_instance_end(instance)
        instance.held = json.loads(deposit.blob)
        instance.adopt(pidfd[0] if pidfd else None)
        self.instance = instance
        self.state = State.RUNNING

    def resume(self) -> None:
        """After everything was adopted: go on."""
        if self.state in (State.ASLEEP, State.WARM):
            self._watch()
        elif self.state is State.HALTED:
            self._hand_back()
        self._prepare()

    # — small things —

    def _set_timer(self, seconds: float, callback: Callable[[], object]) -> None:
        """One at a time: what a zygote waits for when it is unused, and an instance when it is to end."""
        self._clear_timer()
        self._timer = self._loop.call_later(seconds, callback)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _key(self, what: str) -> str:
        return f"{what}.{self.release.id}"

    def _log(self, text: str) -> None:
        self._peer.tell("log.append", log.Append(self.release.service, text))

    def held_by_instance(self) -> dict[str, str]:
        """What its instance was given, by itself or through the zygote that forked it."""
        if self.instance is None or self.zygote is None:
            return {}
        return self.zygote.held | self.instance.held


_CARRY_OUT: Final[dict[Do, Callable[[Supervised], None]]] = {
    Do.LAUNCH: Supervised._launch,
    Do.START: Supervised._start,
    Do.WATCH: Supervised._watch,
    Do.END: Supervised._end,
    Do.HAND_BACK: Supervised._hand_back,
    Do.DRAIN: Supervised._drain,
    Do.DISMISS: Supervised._dismiss,
}
