"""Following the catalogue: a snapshot, then numbered deltas; a gap leads to a new snapshot (wire/catalogue.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from fildes.daemon.peer import Asked, Peer, Refused
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.memfd import read_sealed
from fildes.wire import catalogue as wire

I = TypeVar("I", wire.Route, wire.Rights, msgspec.Raw)  # noqa: E741
D = TypeVar("D", wire.RouteDelta, wire.RightsDelta, wire.ReleaseDelta)

_PATIENCE = 5.0  # seconds for an answer
_PAUSE = 0.1  # seconds before asking again: the catalogue may be starting


class Subscription(Generic[I, D]):
    """Calls `snapshot(number, items, memfd)` (the memfd is borrowed) and `change(delta)`, in order and without gaps."""

    def __init__(
        self,
        peer: Peer,
        name: str,
        *,
        item: type[I],
        delta: type[D],
        snapshot: Callable[[int, list[I], Fd], object],
        change: Callable[[D], object],
    ) -> None:
        self.number: int | None = None  # of what is held; None: a snapshot is awaited
        self._peer = peer
        self._decoder = msgspec.msgpack.Decoder(list[item])  # type: ignore[valid-type]
        self._snapshot: Callable[[int, list[I], Fd], object] = snapshot
        self._change: Callable[[D], object] = change
        self._early: list[D] = []
        self._asking = False
        peer.on_event(f"{name}.delta", delta, self._on_delta)

    def start(self) -> None:
        if not self._asking:
            self._asking = True
            self.number = None
            self._early.clear()
            self._peer.loop.spawn(self._subscribe())

    async def _subscribe(self) -> None:
        while True:
            try:
                answer = await self._peer.ask(
                    "catalogue.subscribe", wire.Subscribe(), reply=wire.Snapshot, timeout=_PATIENCE
                )
                try:
                    if len(answer.fds) != 1:
                        raise Refused("protocol", f"a snapshot with {len(answer.fds)} descriptors instead of one")
                    items = self._decoder.decode(read_sealed(answer.fds[0].fileno()))
                    self._asking = False
                    self.number = answer.body.number
                    self._snapshot(answer.body.number, items, answer.fds[0])
                    # They came behind the snapshot, and were read before this coroutine had its turn.
                    early, self._early = self._early, []
                    for delta in early:
                        self._follow(delta)
                finally:
                    close_all(answer.fds)
                return
            except (Refused, ValueError, msgspec.MsgspecError) as error:
                self._peer.loop.on_error(error)
            await self._peer.loop.sleep(_PAUSE)

    def _on_delta(self, asked: Asked[D]) -> None:
        if self._asking:
            self._early.append(asked.body)
        else:
            self._follow(asked.body)

    def _follow(self, delta: D) -> None:
        match wire.follow(self.number, delta):
            case "apply":
                self.number = delta.number
                self._change(delta)
            case "subscribe":
                self.start()
            case "ignore":
                pass
