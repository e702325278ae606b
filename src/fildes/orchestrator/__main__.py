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
from fildes.orchestrator import listing
from fildes.orchestrator.adoption import adopt
from fildes.orchestrator.plan import State
from fildes.orchestrator.rehearsal import Rehearsal
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.running import Runs
from fildes.orchestrator.shelf import Shelf
from fildes.orchestrator.supervised import Supervised
from fildes.wire import orchestrator
from fildes.wire.catalogue import Release, ReleaseDelta
from fildes.wire.publish import Cancel


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    resources = Resources(loop, peer, inheritance.settings, inheritance.fds["trees"])
    daemon = Orchestrator(loop, peer, store, resources)
    store.on_exit(resources.exits.note)
    peer.on("orchestrator.warm", orchestrator.Warm, daemon.warm)
    peer.on_event("orchestrator.cancel", Cancel, daemon.cancel)
    peer.on("orchestrator.conveyor", orchestrator.GetConveyor, daemon.conveyor)
    peer.on("orchestrator.stop", orchestrator.Stop, daemon.stop)
    peer.on("orchestrator.start", orchestrator.Start, daemon.start)
    peer.on("orchestrator.freeze", orchestrator.Freeze, daemon.freeze)
    peer.on("orchestrator.thaw", orchestrator.Thaw, daemon.thaw)
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
        self._releases = Shelf()
        self._supervised: dict[str, Supervised] = {}  # those that were ever wanted
        self._runs = Runs(loop, peer, store, resources, lambda: self._releases, self._kept)
        self._rehearsals: dict[str, Rehearsal] = {}  # by the ticket of their publish
        self._listed: Promise[None] = Promise(loop)
        self._began: Promise[None] = Promise(loop)
        self._catalogue = Subscription(
            peer,
            "orchestrator",
            item=msgspec.Raw,
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
        self._resources.wishes.keep(self._releases)
        for release in self._releases.standing:
            self._stand(self._releases[release])

    # — the catalogue —

    def _snapshot(self, _: int, releases: list[msgspec.Raw], __: Fd) -> None:
        for gone in self._releases.replace(releases):
            self._retire(gone)
        for supervised in self._supervised.values():
            supervised.renew()  # a secret may have been set in a change that was missed
        if self._began.done:
            for release in self._releases.standing:
                self._stand(self._releases[release])
        self._listed.resolve(None)

    def _change(self, delta: ReleaseDelta) -> None:
        for gone in delta.gone:
            self._releases.remove(gone)
            self._retire(gone)
        for release in delta.put:
            self._releases.put(release)
            supervised = self._supervised.get(release.id)
            if supervised is not None:
                supervised.renew()
            if self._began.done and release.id in self._releases.standing:
                self._stand(release)

    def _stand(self, release: Release) -> None:
        """A release is current that has instances though nobody asks for them."""
        supervised = self._of(release)
        supervised.current = True
        supervised.consider()

    def _retire(self, release: str) -> None:
        supervised = self._supervised.get(release)
        if supervised is not None:
            supervised.retire()
        self._resources.wishes.forget(release)

    # — answering —

    async def warm(self, asked: Asked[orchestrator.Warm]) -> orchestrator.Warmed:
        await self._began
        if asked.sender != "catalogue":
            raise Refused("not-allowed", "only the catalogue has candidates to warm")
        supervised = self._of(asked.body.release)
        try:
            return orchestrator.Warmed(await self._rehearse(supervised, asked.body.ticket))
        except Refused:
            if asked.body.release.id not in self._releases:
                supervised.retire()
            raise

    async def _rehearse(self, supervised: Supervised, ticket: str) -> dict[str, float]:
        release = supervised.release
        rehearsal = Rehearsal(self._loop, self._peer, release, ticket, self._resources.command_limit)
        self._rehearsals[ticket] = rehearsal
        try:
            await rehearsal.commands(lambda arguments, streams: self._runs.begin(release, arguments, {}, streams))
            phases = await supervised.prove()
            rehearsal.check()
            if release.health:
                await rehearsal.health(supervised.conveyor_end(), lambda: supervised.note)
            rehearsal.check()
        finally:
            self._rehearsals.pop(ticket, None)
        return phases | rehearsal.phases

    def cancel(self, asked: Asked[Cancel]) -> None:
        rehearsal = self._rehearsals.get(asked.body.ticket)
        if rehearsal is not None:
            rehearsal.give_up()

    async def conveyor(self, asked: Asked[orchestrator.GetConveyor]) -> tuple[Empty, list[Fd]]:
        await self._began
        release = self._releases.get(asked.body.release)
        if release is None:
            raise Refused("not-found", f"no current release {asked.body.release!r}")
        return Empty(), [self._of(release).conveyor_end()]

    async def stop(self, asked: Asked[orchestrator.Stop]) -> orchestrator.Stopped:
        current = await self._named(asked.body.service)
        if current.runtime == "service":
            self._of(current)  # it is to stay stopped, whether it ran or not
        concerned = [s for s in self._supervised.values() if s.release.service == asked.body.service]
        stopping = [self._loop.spawn(supervised.stop()) for supervised in concerned]  # all are told at once
        return orchestrator.Stopped(sum([await task for task in stopping]), current.runtime == "service")

    async def start(self, asked: Asked[orchestrator.Start]) -> orchestrator.Started:
        return orchestrator.Started(await self._of(await self._program(asked.body.service)).start())

    async def freeze(self, asked: Asked[orchestrator.Freeze]) -> orchestrator.Frozen:
        return orchestrator.Frozen(await self._of(await self._program(asked.body.service)).freeze())

    async def thaw(self, asked: Asked[orchestrator.Thaw]) -> orchestrator.Thawed:
        return orchestrator.Thawed(self._of(await self._program(asked.body.service)).thaw())

    async def _named(self, service: str) -> Release:
        """A service's current release. Raises Refused."""
        await self._began
        release = self._releases.of_service(service)
        if release is None:
            raise Refused("not-found", f"no service {service!r}; see: fildes ps")
        return release

    async def _program(self, service: str) -> Release:
        """As _named, of one that has processes."""
        release = await self._named(service)
        if release.runtime == "static":
            raise Refused("static", f"{service} is static: it has no processes of its own")
        return release

    async def run(self, asked: Asked[orchestrator.Run]) -> orchestrator.Running:
        await self._began
        return await self._runs.run(asked)

    async def plan(self, asked: Asked[orchestrator.Plan]) -> orchestrator.PlanReply:
        return orchestrator.PlanReply(self._resources.explain(await self._named(asked.body.service)))

    async def ps(self, asked: Asked[orchestrator.Ps]) -> tuple[Empty, list[Fd]]:
        """The answer is a sealed memfd of PsReply: ten thousand services don't fit a datagram."""
        await self._began
        body = asked.body
        commands = defaultdict(list)
        running = [command for supervised in self._supervised.values() for command in supervised.commands]
        for command in running + self._runs.alone():
            commands[command.service].append(listing.instance(command, command.zygote.held))
        wishes = self._resources.wishes
        reply, quiet = orchestrator.PsReply([]), 0
        for name, release in self._releases.names(body.owner):
            if body.service not in ("", name):
                continue
            supervised = self._supervised.get(release)
            if supervised is None and name not in commands and release not in wishes:
                quiet += 1
                if body.quiet is not None and quiet > body.quiet:
                    reply.more += 1
                    continue
            found = self._releases[release]
            reply.services.append(listing.service(found, supervised, commands.get(name, []), wishes))
        return Empty(), [memfd.sealed("ps", msgspec.msgpack.encode(reply))]

    def _kept(self, release: Release) -> Supervised | None:
        """Of one that is current or being warmed; an earlier one has none, but while it finishes."""
        if release.id in self._releases:
            return self._of(release)
        found = self._supervised.get(release.id)
        return found if found is not None and found.state is not State.RETIRED else None

    def _of(self, release: Release) -> Supervised:
        found = self._supervised.get(release.id)
        if found is not None and found.state is not State.RETIRED:
            return found
        new = self._supervised[release.id] = Supervised(self._loop, self._peer, self._store, self._resources, release)
        new.on_retired = partial(self._forget, new)
        new.current = release.id in self._releases
        if found is not None:  # a rollback, while the last one still finishes
            found.step_aside()
            new.reopen()
        return new

    def _forget(self, supervised: Supervised) -> None:
        if self._supervised.get(supervised.release.id) is supervised:
            del self._supervised[supervised.release.id]
