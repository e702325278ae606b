"""The instances of one release: ordered from its zygote, counted, and followed to their ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from fildes.daemon.peer import Peer
from fildes.daemon.store import Deposit, Store
from fildes.kernel import fds
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop
from fildes.orchestrator.instances import WAITS, Instance, never_started
from fildes.orchestrator.kits import Kit
from fildes.orchestrator.life import Said, Stage
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.zygotes import Zygote
from fildes.wire import web
from fildes.wire.catalogue import Release
from fildes.wire.zygote import GO

EXIT_WORD: Final = 0.25  # seconds to wait for the zygote's word on how an instance ended


class Crew:
    """`on_over(instance)`: it is gone, and `status` says how if anybody knows. `on_word(instance, said)`: how it is."""

    def __init__(self, loop: Loop, peer: Peer, store: Store, resources: Resources, release: Release) -> None:
        self._loop, self._peer, self._store, self._resources = loop, peer, store, resources
        self._release = release
        self._all: dict[str, Instance] = {}
        # Others that the zygote forks on order (a command, say): who is told the status, by their name.
        self.guests: dict[str, Callable[[int], object]] = {}
        self.on_over: Callable[[Instance], object] = lambda _: None
        self.on_word: Callable[[Instance, Said], object] = lambda _, __: None

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Instance]:
        return iter(list(self._all.values()))

    def __contains__(self, instance: Instance) -> bool:
        return self._all.get(instance.name) is instance

    def stages(self) -> list[Stage]:
        return [instance.stage for instance in self._all.values()]

    # — beginning —

    def order(self, zygote: Zygote, kit: Kit, conveyor: Fd, wanted_at: float) -> Instance:
        """One more. Raises OSError and Refused when the zygote takes no order, or who waited is gone. The kit is
        used up either way."""
        instance: Instance | None = None
        try:
            if kit.waits:  # before anything else is done here: it runs on another core meanwhile
                fds.send_with_fds(kit.ours.fileno(), GO, [conveyor.fileno()])
            instance = self._ordered(zygote, kit, wanted_at)
            if not kit.waits:
                zygote.start(kit.instance, [("conveyor", conveyor.fileno()), *kit.named()])
        except BaseException:
            self._close(instance or self._ordered(zygote, kit, wanted_at))
            raise
        finally:
            close_all(kit.given)
        instance.held = kit.held | {fds.name(conveyor.fileno()): "runtime: conveyor"}
        self._take_up(instance)
        return instance

    def _ordered(self, zygote: Zygote, kit: Kit, wanted_at: float) -> Instance:
        instance = Instance(self._loop, self._store, self._release.id, kit.instance, kit.ours, zygote.pid, kit.cgroup)
        instance.timeline["wanted"] = wanted_at
        return instance

    def adopt(self, deposit: Deposit, name: str, zygote: Zygote | None) -> None:
        """Take up what a forerunner left: an instance, or a kit that was in stock, which is thrown away."""
        handle, *pidfd = deposit.fds
        if zygote is None or (not pidfd and never_started(handle.fileno(), deposit.blob)):
            close_all(deposit.fds)
            self._store.drop(deposit.key)
            return
        cgroup = self._resources.instance_cgroup(zygote.cgroup, name, self._release)
        instance = Instance(self._loop, self._store, self._release.id, name, handle, zygote.pid, cgroup)
        instance.held = json.loads(deposit.blob)
        instance.held.pop(WAITS, None)
        instance.adopt(pidfd[0] if pidfd else None)
        self._take_up(instance)

    def _take_up(self, instance: Instance) -> None:
        instance.on_end = lambda: self._on_end(instance)
        instance.on_word = lambda said: self.on_word(instance, said)
        self._all[instance.name] = instance

    # — ending —

    def on_exit_word(self, message: dict[str, Any]) -> None:
        """What the zygote says of a child of its."""
        name, status = message.get("instance"), message.get("status")
        if not isinstance(name, str) or not isinstance(status, int):
            return
        instance = self._all.get(name)
        if instance is None:
            guest = self.guests.pop(name, None)
            if guest is not None:
                guest(status)
            return
        instance.status = status
        if instance.pid < 0:
            self._on_end(instance)
        elif instance.unexplained is not None:
            self._over(instance)

    def _on_end(self, instance: Instance) -> None:
        """It is gone; the zygote, who is its parent, tells how, or keeps silent."""
        instance.on_end = lambda: None
        if instance.status is None:
            instance.unexplained = self._loop.call_later(EXIT_WORD, lambda: self._over(instance))
        else:
            self._loop.call_soon(lambda: self._over(instance))

    def explain(self, status: int) -> None:
        """All of them ended, with their zygote, and so."""
        for instance in self:
            if instance.status is None:
                instance.status = status
            self._over(instance)

    def _over(self, instance: Instance) -> None:
        if instance in self:
            if instance.unexplained is not None:
                instance.unexplained.cancel()
            self.on_over(instance)

    def remove(self, instance: Instance, reason: str) -> None:
        """The door answers for what it had taken and not begun."""
        del self._all[instance.name]
        self._peer.tell("web.died", web.Died(self._release.id, instance.name, reason, max(instance.pid, 0)))
        self._close(instance)

    def _close(self, instance: Instance) -> None:
        instance.close()
        self._resources.remove_cgroup(instance.cgroup)
