"""The orchestrator: follows the catalogue, wakes what is wanted, tells who runs."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import msgspec

from fildes.daemon.peer import Asked, Empty, Peer, Refused
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.daemon.subscription import Subscription
from fildes.kernel import memfd
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop, Promise
from fildes.orchestrator.adoption import adopt
from fildes.orchestrator.instances import Instance
from fildes.orchestrator.plan import State
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.running import Runs
from fildes.orchestrator.supervised import Supervised
from fildes.wire import orchestrator
from fildes.wire.catalogue import Release, ReleaseDelta


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    resources = Resources(loop, peer, inheritance.settings, inheritance.fds["trees"])
    daemon = Orchestrator(loop, peer, store, resources)
    store.on_exit(resources.exits.note)
    peer.on("orchestrator.warm", orchestrator.Warm, daemon.warm)
    peer.on("orchestrator.conveyor", orchestrator.GetConveyor, daemon.conveyor)
    peer.on("orchestrator.stop", orchestrator.Stop, daemon.stop)
    peer.on("orchestrator.run", orchestrator.Run, daemon.run)
    peer.on("orchestrator.ps", orchestrator.Ps, daemon.ps)
    peer.on("orchestrator.plan", orchestrator.Plan, daemon.plan)
    confine("orchestrator")
    loop.spawn(daemon.begin())
    store.ready()
    loop.run()


class Orchestrator:
    def __init__(self, loop: Loop, peer: Peer, store: Store, resources: Resources) -> None:
        self._loop, self._peer, self._store, self._resources = loop, peer, store, resources
        self._releases: dict[str, Release] = {}
        self._supervised: dict[str, Supervised] = {}  # those that were ever wanted
        self._runs = Runs(loop, peer, store, resources, lambda: self._releases, self._of)
        self._listed: Promise[None] = Promise(loop)
        self._began: Promise[None] = Promise(loop)
        self._catalogue = Subscription(
            peer,
            "orchestrator",
            item=Release,
            delta=ReleaseDelta,
            snapshot=self._snapshot,
            change=self._change,
        )

    async def begin(self) -> None:
        """What a forerunner left comes first: nobody else may be served before it is known who runs."""
        deposits = await self._store.collect()
        self._catalogue.start()
        await self._listed
        adopt(self._loop, self._store, deposits, self._releases, self._of)
        self._began.resolve(None)

    # — the catalogue —

    def _snapshot(self, _: int, releases: list[Release], __: Fd) -> None:
        listed = {release.id: release for release in releases}
        gone = self._releases.keys() - listed.keys()
        self._releases = listed
        for release in gone:
            self._retire(release)
        for supervised in self._supervised.values():
            supervised.renew()  # a secret may have been set in a change that was missed
        self._listed.resolve(None)

    def _change(self, delta: ReleaseDelta) -> None:
        for gone in delta.gone:
            self._releases.pop(gone, None)
            self._retire(gone)
        for release in delta.put:
            self._releases[release.id] = release
            supervised = self._supervised.get(release.id)
            if supervised is not None:
                supervised.renew()

    def _retire(self, release: str) -> None:
        supervised = self._supervised.get(release)
        if supervised is not None:
            supervised.retire()

    # — answering —

    async def warm(self, asked: Asked[orchestrator.Warm]) -> orchestrator.Warmed:
        await self._began
        if asked.sender != "catalogue":
            raise Refused("not-allowed", "only the catalogue has candidates to warm")
        supervised = self._of(asked.body.release)
        try:
            return orchestrator.Warmed(await supervised.prove())
        except Refused:
            if asked.body.release.id not in self._releases:
                supervised.retire()
            raise

    async def conveyor(self, asked: Asked[orchestrator.GetConveyor]) -> tuple[Empty, list[Fd]]:
        await self._began
        release = self._releases.get(asked.body.release)
        if release is None:
            raise Refused("not-found", f"no current release {asked.body.release!r}")
        return Empty(), [self._of(release).conveyor_end()]

    async def stop(self, asked: Asked[orchestrator.Stop]) -> orchestrator.Stopped:
        await self._began
        if not any(release.service == asked.body.service for release in self._releases.values()):
            raise Refused("not-found", f"no service {asked.body.service!r}; see: fildes ps")
        self._runs.end(asked.body.service)
        concerned = [s for s in self._supervised.values() if s.release.service == asked.body.service]
        stopping = [self._loop.spawn(supervised.stop()) for supervised in concerned]  # all are told at once
        return orchestrator.Stopped(sum([await task for task in stopping]))

    async def run(self, asked: Asked[orchestrator.Run]) -> orchestrator.Running:
        await self._began
        return await self._runs.run(asked)

    async def plan(self, asked: Asked[orchestrator.Plan]) -> orchestrator.PlanReply:
        await self._began
        for release in self._releases.values():
            if release.service == asked.body.service:
                return orchestrator.PlanReply(self._resources.explain(release))
        raise Refused("not-found", f"no service {asked.body.service!r}; see: fildes ps")

    async def ps(self, asked: Asked[orchestrator.Ps]) -> tuple[Empty, list[Fd]]:
        """The answer is a sealed memfd of PsReply: ten thousand services don't fit a datagram."""
        await self._began
        wanted = asked.body.service
        commands = defaultdict(list)
        for command in [
            c for supervised in self._supervised.values() for c in supervised.commands
        ] + self._runs.alone():
            commands[command.service].append(_instance_state(command, command.zygote.held))
        states = [
            self._state(release, self._supervised.get(release.id), commands.get(release.service, []))
            for release in sorted(self._releases.values(), key=lambda release: release.service)
            if wanted in ("", release.service)
        ]
        return Empty(), [memfd.sealed("ps", msgspec.msgpack.encode(orchestrator.PsReply(states)))]

    def _of(self, release: Release) -> Supervised:
        found = self._supervised.get(release.id)
        if found is not None and found.state is not State.RETIRED:
            return found
        new = self._supervised[release.id] = Supervised(self._loop, self._peer, self._store, self._resources, release)
        new.on_retired = partial(self._forget, new)
        if found is not None:  # a rollback, while the last one still finishes
            found.step_aside()
            new.reopen()
        return new

    def _forget(self, supervised: Supervised) -> None:
        if self._supervised.get(supervised.release.id) is supervised:
            del self._supervised[supervised.release.id]

    @staticmethod
    def _state(
        release: Release, supervised: Supervised | None, commands: list[orchestrator.InstanceState]
    ) -> orchestrator.ServiceState:
        zygote = supervised.nursery.zygote if supervised is not None else None
        instances = [
            _instance_state(instance, zygote.held if zygote is not None else {})
            for instance in (supervised.crew if supervised is not None else ())
        ]
        return orchestrator.ServiceState(
            service=release.service,
            owner=release.owner,
            release=release.id,
            runtime=release.runtime,
            state="serving" if release.runtime == "static" else supervised.state if supervised else State.ASLEEP,
            hosts=list(release.hosts),
            instances=instances,
            grants=release.grants,
            held=zygote.held if zygote is not None else {},
            zygote=zygote.pid if zygote is not None else None,
            starts=supervised.starts if supervised else 0,
            crashes=supervised.crashes if supervised else 0,
            note=supervised.note if supervised else "",
            commands=commands,
        )


def _instance_state(instance: Instance, zygotes: dict[str, str]) -> orchestrator.InstanceState:
    memory = int(instance.cgroup.usage().get("memory", 0)) if instance.cgroup is not None else None
    return orchestrator.InstanceState(
        instance.name, instance.pid, instance.started, memory, zygotes | instance.held, instance.timeline
    )
