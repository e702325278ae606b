"""The bus process: channels in, privileges down, run."""

from __future__ import annotations

import time

from fildes.bus import quota
from fildes.bus.introduce import Introducer
from fildes.bus.router import Router
from fildes.bus.tenants import Tenants
from fildes.daemon.peer import Asked, Empty, Peer
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.daemon.subscription import Subscription
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop
from fildes.wire import bus as wire
from fildes.wire.catalogue import Rights, RightsDelta


class Bus:
    """Wires the parts together; owns them all."""

    def __init__(self, inheritance: Inheritance, limits: quota.Limits = quota.TENANT) -> None:
        self.loop = Loop()
        # Rises over restarts, and nobody else needs to understand it (clock_gettime(2), CLOCK_MONOTONIC).
        self.epoch = time.monotonic_ns()
        self.store = Store(self.loop, inheritance.store)
        # Before anybody is answered: new channels must not take the places of those that are kept.
        deposits = self.loop.run_until(self.loop.spawn(self.store.collect()))
        # The bus is a daemon on its own bus: asking and answering are no special case.
        self.peer = Peer(self.loop, inheritance.channel)
        channels = {name.removeprefix("channel."): fd for name, fd in inheritance.fds.items()}
        self.router = Router(self.loop, channels, self.epoch)
        self.introducer = Introducer(self.peer)
        self.tenants = Tenants(self.peer, self.store, self.introducer, self.epoch, limits)
        self.tenants.restore(deposits)
        self.rights = Subscription(
            self.peer, "bus", item=Rights, delta=RightsDelta, snapshot=self._snapshot, change=self._change
        )
        self.peer.on("bus.channel", wire.Channel, self._channel)
        self.peer.on("bus.close", wire.Close, self._close)
        self.peer.on("bus.denials", wire.AskDenials, self._denials)
        self.peer.on("bus.status", Empty, self._status)
        self.peer.on_event("bus.undeliverable", wire.Undeliverable, lambda asked: None)

    def start(self) -> None:
        """Until the first snapshot is here, tenants' requests wait in their channels."""
        self.router.greet()
        self.store.ready()
        self.rights.start()

    def close(self) -> None:
        self.tenants.close()
        self.introducer.close()
        self.router.close()

    # — the catalogue's word —

    def _snapshot(self, number: int, rights: list[Rights], _: Fd) -> None:
        for release in self.tenants.table.replace(number, rights):
            self.introducer.forget(release)
        self.tenants.keep_rights()
        self.tenants.start()

    def _change(self, delta: RightsDelta) -> None:
        for release in delta.gone:
            self.introducer.forget(release)
        self.tenants.table.apply(delta)
        self.tenants.keep_rights()

    # — what others ask of the bus —

    async def _channel(self, asked: Asked[wire.Channel]) -> tuple[Empty, list[Fd]]:
        return Empty(), [self.tenants.make(asked.body)]

    async def _close(self, asked: Asked[wire.Close]) -> None:
        self.tenants.end(asked.body.release)
        self.introducer.forget(asked.body.release)

    async def _denials(self, asked: Asked[wire.AskDenials]) -> wire.Denials:
        return wire.Denials(self.tenants.denials.of(asked.body.service))

    async def _status(self, asked: Asked[Empty]) -> wire.Status:
        number = self.tenants.table.number
        return wire.Status(
            epoch=self.epoch,
            snapshot=-1 if number is None else number,
            channels=len(self.tenants),
            pending=self.router.pending,
            conveyors=self.introducer.held,
            introductions=self.introducer.count,
            refusals=self.tenants.denials.count,
        )


def main(inheritance: Inheritance) -> None:
    bus = Bus(inheritance)
    confine("bus")
    bus.start()
    bus.loop.run()
