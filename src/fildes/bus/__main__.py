"""The bus process: channels in, privileges down, run."""

from __future__ import annotations

import time

import msgspec

from fildes.bus import quota
from fildes.bus.introduce import Introducer
from fildes.bus.router import Router
from fildes.bus.tenants import Tenants
from fildes.daemon.peer import Asked, Empty, Peer, Refused
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop
from fildes.wire import bus as wire
from fildes.wire.catalogue import Rights, RightsDelta, Snapshot, Subscribe

_AGAIN = 0.5  # seconds before the catalogue is asked again

_rights = msgspec.msgpack.Decoder(list[Rights])


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
        self._subscribing = False
        self._heard = -1  # number of the newest change that was announced
        self.peer.on("bus.channel", wire.Channel, self._channel)
        self.peer.on("bus.close", wire.Close, self._close)
        self.peer.on("bus.denials", wire.AskDenials, self._denials)
        self.peer.on("bus.status", Empty, self._status)
        self.peer.on_event("bus.delta", RightsDelta, self._delta)
        self.peer.on_event("bus.undeliverable", wire.Undeliverable, lambda asked: None)

    async def start(self) -> None:
        self.router.greet()
        self.store.ready()
        await self._subscribe()

    def close(self) -> None:
        self.tenants.close()
        self.introducer.close()
        self.router.close()

    # — the catalogue's word —

    async def _subscribe(self) -> None:
        """Until the first snapshot is here, tenants' requests wait in their channels."""
        if self._subscribing:
            return
        self._subscribing = True
        try:
            while not await self._snapshot():
                pass
        finally:
            self._subscribing = False
        self.tenants.start()

    async def _snapshot(self) -> bool:
        try:
            answer = await self.peer.ask("catalogue.subscribe", Subscribe(), reply=Snapshot, timeout=10)
        except Refused as refused:
            self.loop.on_error(ValueError(f"no rights from the catalogue yet, asking again: {refused.text}"))
            await self.loop.sleep(_AGAIN)
            return False
        try:
            rights = _rights.decode(memfd.read_sealed(answer.fds[0].fileno()))
        except (IndexError, ValueError, msgspec.MsgspecError) as error:
            self.loop.on_error(ValueError(f"the catalogue's snapshot can't be read: {error}"))
            await self.loop.sleep(_AGAIN)
            return False
        finally:
            close_all(answer.fds)
        for release in self.tenants.table.replace(answer.body.number, rights):
            self.introducer.forget(release)
        self.tenants.keep_rights()
        # A change that was sent behind the snapshot may have been handled before it: answers take a turn of the loop.
        return self._heard <= answer.body.number

    def _delta(self, asked: Asked[RightsDelta]) -> None:
        self._heard = max(self._heard, asked.body.number)
        if self._subscribing:
            return
        for release in asked.body.gone:
            self.introducer.forget(release)
        if self.tenants.table.apply(asked.body):
            self.tenants.keep_rights()
        else:
            self.loop.spawn(self._subscribe())

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
    bus.loop.spawn(bus.start())
    bus.loop.run()
