"""The kit that the next instance of a release gets: put together ahead, so that no request waits for it.

Its handle is in the fd store from here on, before the instance can have the other end.
"""

from __future__ import annotations

from collections.abc import Callable

from fildes.daemon.peer import Peer, Refused
from fildes.daemon.store import Store
from fildes.kernel.fds import close_all
from fildes.kernel.loop import Loop, Task
from fildes.orchestrator.instances import WAITS, held_as_blob, instance_key
from fildes.orchestrator.kits import Kit, prepare
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.zygotes import Zygote
from fildes.wire.catalogue import Release


class Stock:
    """One kit at the most. `refused(text)` is called when a grant can't be opened, `outdated()` when the zygote has
    loaded with other secrets than an instance would get now. While there is `room()` for another instance, a process
    has the kit already: forked, in its cgroup, behind its filter, and waiting for the conveyor. That is half of a
    start, and nothing of the program has run in it.
    """

    def __init__(
        self,
        loop: Loop,
        peer: Peer,
        store: Store,
        resources: Resources,
        release: Release,
        refused: Callable[[str], object],
        outdated: Callable[[], object],
        room: Callable[[], bool],
    ) -> None:
        self._loop, self._peer, self._store, self._resources, self._release = loop, peer, store, resources, release
        self._refused, self._outdated, self._room = refused, outdated, room
        self._kit: Kit | None = None
        self._filling: Task[None] | None = None
        self._edition = 0  # of what the grants open

    def fill(self, zygote: Zygote) -> None:
        """See to it that there is a kit, for an instance of `zygote`."""
        if self._kit is not None:
            self._station(self._kit, zygote)
        elif self._filling is None:
            self._filling = self._loop.spawn(self._fill(zygote, self._edition))

    async def filled(self) -> None:
        """Wait until what is being put together is there, or refused."""
        while self._filling is not None and self._kit is None:
            await self._filling

    def take(self) -> Kit | None:
        """The kit, the caller's from now on."""
        kit, self._kit = self._kit, None
        return kit

    def empty(self) -> None:
        """What its grants open may be another now (a secret was set), or its zygote is gone."""
        self._edition += 1
        self._filling = None  # it takes away what it got
        kit = self.take()
        if kit is not None:
            self.discard(kit)

    def discard(self, kit: Kit) -> None:
        """One that nobody was started with."""
        self._store.drop(instance_key(self._release.id, kit.instance))
        kit.close()
        if kit.waits:
            self._resources.remove_cgroup(kit.cgroup)

    def _station(self, kit: Kit, zygote: Zygote) -> None:
        if kit.waits or zygote.threads > 1 or zygote.gone or not self._room():
            return
        held = held_as_blob(kit.held | {WAITS: ""})
        self._store.deposit(instance_key(self._release.id, kit.instance), held, [kit.ours])
        try:
            zygote.start(kit.instance, kit.named())
        except (Refused, OSError):
            return  # whoever wants to start an instance is told
        kit.waits = True
        close_all(kit.given)

    async def _fill(self, zygote: Zygote, edition: int) -> None:
        kit: Kit | None = None
        try:
            kit = await prepare(self._peer, self._release)
            if edition != self._edition or zygote.gone:
                kit.close()
                return
            # Cgroups cost 0.1 ms to make: here, where no request waits.
            kit.cgroup = self._resources.instance_cgroup(zygote.cgroup, kit.instance, self._release)
            if kit.cgroup is not None and zygote.threads == 1:  # with threads it stays in the release's
                kit.entrances = kit.cgroup.entrances()
            self._store.deposit(instance_key(self._release.id, kit.instance), held_as_blob(kit.held), [kit.ours])
            self._kit = kit
            self._station(kit, zygote)
            if kit.secrets != zygote.secrets:
                self._loop.call_soon(self._outdated)
        except (Refused, OSError) as error:
            if kit is not None:
                kit.close()
            self._refused(f"what an instance starts with could not be put together: {error}")
        finally:
            if edition == self._edition:
                self._filling = None
