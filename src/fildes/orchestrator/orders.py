"""The instances that a release is to have more: each is ordered as soon as what it starts with is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from fildes.daemon.peer import Refused
from fildes.kernel.loop import Loop
from fildes.orchestrator.crew import Crew
from fildes.orchestrator.doorway import Doorway
from fildes.orchestrator.stock import Stock
from fildes.orchestrator.zygotes import Zygote

RESTOCK: Final = 0.25  # seconds after a start: not while others are being started too


class Orders:
    """`zygote()`: whom to order from, None when nothing may be ordered now. `prepare()`: have a kit put together.

    `none(why)`: the zygote takes no order. `empty()`: there was nothing to start with, and why was told to the stock.
    """

    def __init__(
        self,
        loop: Loop,
        stock: Stock,
        crew: Crew,
        doorway: Doorway,
        *,
        zygote: Callable[[], Zygote | None],
        none: Callable[[str], object],
        empty: Callable[[], object],
    ) -> None:
        self._loop, self._stock, self._crew, self._doorway = loop, stock, crew, doorway
        self._zygote, self._none, self._empty = zygote, none, empty
        self.waiting = 0  # instances that are to be ordered
        self.given = 0  # since the beginning
        self.wanted_at = 0.0  # when somebody came for whom they are

    def more(self) -> None:
        """One instance more; at once, where a kit is in stock."""
        self.waiting += 1
        if self.waiting == 1 and not self._give():
            self._loop.spawn(self._give_all())

    def cancel(self) -> None:
        self.waiting = 0

    async def first(self) -> None:
        """Wait until there is an instance, or none to come."""
        while self.waiting and not len(self._crew):
            await self._stock.filled()
            await self._loop.sleep(0)

    def restock(self) -> None:
        zygote = self._zygote()
        if zygote is not None:
            self._stock.fill(zygote)

    async def _give_all(self) -> None:
        while self.waiting:
            self.restock()
            await self._stock.filled()
            if self.waiting and not self._give():
                self.waiting = 0
                if self._zygote() is not None:
                    self._empty()

    def _give(self) -> bool:
        """One that waits; False when there is no kit for it."""
        zygote = self._zygote()
        if zygote is None:
            self.waiting = 0
            return True
        kit = self._stock.take()
        if kit is None:
            return False
        self.waiting -= 1
        waited = kit.waits
        try:
            self._crew.order(zygote, kit, self._doorway.open().receiving, self.wanted_at or time.monotonic())
        except (OSError, Refused) as error:
            if waited and isinstance(error, BrokenPipeError | ConnectionResetError):  # it was killed: another, then
                self.waiting += 1
                return False
            self.waiting = 0
            self._none(f"the zygote took no order: {error}")
            return True
        self.given += 1
        # The next one's descriptors, once this one had time to answer.
        self._loop.call_later(RESTOCK, self.restock)
        return True
