"""The door's process: listening sockets in, connections out (door.py); its words are in wire/web.py."""

from __future__ import annotations

import resource
import signal
from typing import Any, Final

import msgspec

from fildes.daemon.peer import Asked, Empty, Peer, Refused
from fildes.daemon.routes import Table
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Deposit, Store
from fildes.daemon.subscription import Subscription
from fildes.kernel.fds import Fd, close_all, dup, seqpacket_pair
from fildes.kernel.loop import Loop, Promise
from fildes.kernel.memfd import read_sealed
from fildes.web import probe
from fildes.web.crowd import DEFAULT
from fildes.web.door import Door
from fildes.web.owner import Limits
from fildes.web.parcels import STATIC, Conveyor
from fildes.web.proxies import Proxies
from fildes.web.sockets import prepare_listener
from fildes.wire import log
from fildes.wire import web as wire
from fildes.wire.catalogue import Route, RouteDelta
from fildes.wire.orchestrator import GetConveyor

_CONVEYOR: Final = "conveyor."
_STATIC_ENDS: Final = "static"
_ROUTES: Final = "routes"
_FETCH: Final = 20.0  # seconds that the orchestrator may take for a conveyor
_REFUSED_FOR: Final = 1.0  # seconds that its refusal is believed without asking again
_SILENCE: Final = 1.0  # seconds that a restarted door waits for the catalogue before it takes the table it finds
_REFRESH: Final = 30.0  # seconds after a change until the table that a later door would find is renewed
_GRACE: Final = 0.5  # seconds to read the heads that are coming, when another door takes over


class Web:
    def __init__(
        self, loop: Loop, peer: Peer, store: Store, door_fds: list[Fd], limits: Limits, settings: dict[str, Any]
    ) -> None:
        self._loop, self._peer, self._store = loop, peer, store
        self._fetching: set[str] = set()
        self._static_receiving: Promise[Fd] = Promise(loop)
        self._mixed: list[str] = []
        self._refreshing = False
        listeners = [prepare_listener(fd) for fd in door_fds]
        self.door = Door(
            loop, listeners, limits, wanted=self._wanted, dropped=self._dropped,
            proxies=Proxies(settings.get("proxies", ())),
            most_of_one=int(settings.get("client_connections", DEFAULT)),
            access_log=bool(settings.get("access_log")),
        )  # fmt: skip
        self._routes = Subscription(
            peer, "web", item=Route, delta=RouteDelta, snapshot=self._on_snapshot, change=self._on_change
        )
        peer.on_event("web.conveyor", wire.Conveyor, self._on_conveyor)
        peer.on_event("web.died", wire.Died, self._on_died)
        peer.on_event("web.retired", wire.Retired, self._on_retired)
        peer.on("web.static_end", wire.StaticEnd, self._give_static_end)
        peer.on("web.counts", wire.Counts, self._count)
        peer.on("web.probe", wire.Probe, self._probe)

    async def start(self) -> None:
        """Take up what a forerunner left, then follow the catalogue. The first table opens the door."""
        for deposit in await self._store.collect():
            self._resume(deposit)
        if not self._static_receiving.done:
            sending, receiving = seqpacket_pair()
            self._store.deposit(_STATIC_ENDS, fds=[sending, receiving])
            self._static_receiving.resolve(receiving)
            self.door.exchange.adopt(STATIC, "", "", sending)
        self._routes.start()
        self._store.ready()

    def stop(self) -> None:
        """Another door takes over: the backlog is its; finish what has begun to arrive."""
        self.door.shut()
        if self.door.busy:
            self._loop.call_later(_GRACE, self._loop.stop)
        else:
            self._loop.stop()

    # — deposits —

    def _resume(self, deposit: Deposit) -> None:
        fds = deposit.fds
        if deposit.key == _STATIC_ENDS and len(fds) == 2:
            self._static_receiving.resolve(fds.pop())
            self.door.exchange.adopt(STATIC, "", "", fds.pop())
        elif deposit.key.startswith(_CONVEYOR) and len(fds) == 1:
            service, owner = msgspec.msgpack.decode(deposit.blob, type=tuple[str, str])
            self.door.exchange.adopt(deposit.key.removeprefix(_CONVEYOR), service, owner, fds.pop())
        elif deposit.key == _ROUTES and len(fds) == 1:
            number = int.from_bytes(deposit.blob, "little")
            routes = msgspec.msgpack.decode(read_sealed(fds[0].fileno()), type=list[Route])
            self._loop.call_later(_SILENCE, lambda: self._do_with(Table(number, routes)))
        close_all(fds)

    def _adopt(self, release: str, service: str, owner: str, end: Fd) -> None:
        blob = msgspec.msgpack.encode((service, owner))
        with dup(end.fileno()) as kept:
            if self.door.exchange.adopt(release, service, owner, end):
                self._store.deposit(_CONVEYOR + release, blob, [kept])

    # — conveyors —

    def _wanted(self, conveyor: Conveyor) -> None:
        if conveyor.release not in self._fetching and conveyor.release != STATIC:
            self._fetching.add(conveyor.release)
            self._loop.spawn(self._fetch(conveyor))

    async def _fetch(self, conveyor: Conveyor) -> None:
        release = conveyor.release
        try:
            asked = await self._peer.ask("orchestrator.conveyor", GetConveyor(release), reply=Empty, timeout=_FETCH)
            if len(asked.fds) != 1:
                close_all(asked.fds)
                raise Refused("protocol", f"a conveyor comes as one descriptor, not {len(asked.fds)}")
            self._adopt(release, conveyor.service, conveyor.owner, asked.fds[0])
        except Refused as refused:
            if conveyor.sock is None:  # else it came by event meanwhile
                self.door.exchange.refuse(conveyor, refused.text)
                self._loop.call_later(_REFUSED_FOR, lambda: self.door.exchange.forgive(conveyor))
        finally:
            self._fetching.discard(release)

    def _dropped(self, conveyor: Conveyor, reason: str | None) -> None:
        self._store.drop(_CONVEYOR + conveyor.release)
        if reason is not None and conveyor.service:
            text = f"fildes: the conveyor of release {conveyor.release} was closed by the door: {reason}"
            self._peer.tell("log.append", log.Append(conveyor.service, text))

    def _on_conveyor(self, asked: Asked[wire.Conveyor]) -> None:
        (end,) = asked.take_fds(1)
        self._adopt(asked.body.release, asked.body.service, "", end)

    def _on_died(self, asked: Asked[wire.Died]) -> None:
        self.door.exchange.died(asked.body.release, asked.body.pid, asked.body.reason)

    def _on_retired(self, asked: Asked[wire.Retired]) -> None:
        self.door.exchange.retire(asked.body.release, asked.body.reason)

    # — routes —

    def _on_snapshot(self, number: int, routes: list[Route], memfd: Fd) -> None:
        self._store.deposit(_ROUTES, number.to_bytes(8, "little"), [memfd])
        self.door.stale = False
        self._follow(Table(number, routes))

    def _on_change(self, delta: RouteDelta) -> None:
        self._follow(self.door.table.with_delta(delta.number, delta.put, delta.gone))
        if not self._refreshing:
            self._refreshing = True
            self._loop.call_later(_REFRESH, self._refresh)

    def _refresh(self) -> None:
        self._refreshing = False
        self._routes.start()

    def _do_with(self, old: Table) -> None:
        """The catalogue is silent: its last table but some is better than none."""
        if self.door.table.number < 0:
            self.door.stale = True
            self.door.follow(old)

    def _follow(self, table: Table) -> None:
        mixed = table.mixed_static_hosts()
        if mixed != self._mixed:
            self._mixed = mixed
            self._peer.tell("static.mixed", wire.Mixed(mixed))
        self.door.follow(table)

    async def _give_static_end(self, asked: Asked[wire.StaticEnd]) -> tuple[wire.StaticEndGiven, list[Fd]]:
        end = await self._static_receiving
        if asked.body.pid:
            self.door.exchange.died(STATIC, asked.body.pid, "", others=True)
        return wire.StaticEndGiven(self._mixed), [end.dup()]

    async def _probe(self, asked: Asked[wire.Probe]) -> wire.Probed:
        (stream,) = asked.take_fds(1)
        return await probe.ask(self._loop, stream, asked.body)

    async def _count(self, _: Asked[wire.Counts]) -> wire.CountsGiven:
        return self.door.counts()


def raise_file_limit() -> int:
    """As many descriptors as the system allows; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def main(inheritance: Inheritance) -> None:
    limits = Limits.of(raise_file_limit())
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    listening = [fd for name, fd in sorted(inheritance.fds.items()) if name.startswith("http")]
    web = Web(loop, peer, store, listening, limits, inheritance.settings)
    loop.signals([signal.SIGTERM], lambda _: web.stop())
    confine("web")
    loop.spawn(web.start())
    loop.run()
    web.door.close()
