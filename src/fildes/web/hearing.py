"""What instances say about the connections that they were sent. It comes from tenants: nothing in it is believed.

A datagram that can't be read, or a descriptor that the door never accepted, costs its sender the conveyor and nobody
else anything.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from fildes.kernel.loop import EPOLLHUP, EPOLLOUT, Loop
from fildes.web.owner import Owner
from fildes.web.parcels import Conveyor, Message, receive
from fildes.web.sockets import close_passed
from fildes.wire import conveyor as wire

if TYPE_CHECKING:
    from fildes.web.exchange import Exchange

_DATAGRAMS: Final = 16  # read from one conveyor before the others get their turn
_PAUSE: Final = 0.1  # seconds that a nuisance is not listened to


class Hearing:
    def __init__(self, loop: Loop, owner: Owner, exchange: Exchange) -> None:
        self._loop = loop
        self._owner = owner
        self._exchange = exchange

    def on_events(self, conveyor: Conveyor, events: int) -> None:
        if events & EPOLLOUT and conveyor.blocked:
            conveyor.blocked = False
            self._loop.rewatch(conveyor.number, conveyor.events)
            self._exchange.sending.flush_one(conveyor)
        if events & ~EPOLLOUT:
            self.read(conveyor, _DATAGRAMS, hung_up=bool(events & EPOLLHUP))
        self._exchange.sending.flush()

    def read(self, conveyor: Conveyor, rounds: int, *, hung_up: bool = False) -> None:
        spent = 0
        for _ in range(rounds):
            if conveyor.sock is None:
                return
            try:
                message = receive(conveyor.sock)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # told once: the other end is gone and left some unread; what it said before is still there
            except OSError:
                self._exchange.lost(conveyor)
                return
            if not message.data and not message.numbers and hung_up:
                self._exchange.lost(conveyor)
                return
            try:
                spent += self._heed(conveyor, message)
            except ValueError as error:
                for number in message.numbers:
                    close_passed(number)
                self._exchange.drop(conveyor, str(error))
                return
            if not (conveyor.ledger.unacknowledged or conveyor.ledger.taken or conveyor.returns):
                break  # all is said; epoll tells of what may come
        if conveyor.backlog:
            self._exchange.sending.flush_one(conveyor)
        if self._exchange.sending.starved:
            self._exchange.sending.feed()
        if spent and not conveyor.allowance.spend(self._loop.time(), spent) and conveyor.sock is not None:
            conveyor.paused = True
            self._loop.rewatch(conveyor.number, conveyor.events)
            self._loop.call_later(_PAUSE, lambda: self._resume(conveyor))

    def _resume(self, conveyor: Conveyor) -> None:
        if conveyor.paused and conveyor.sock is not None:
            conveyor.paused = False
            self._loop.rewatch(conveyor.number, conveyor.events)

    def _heed(self, conveyor: Conveyor, message: Message) -> int:
        """How much of a nuisance it was. Raises ValueError for what is none of the protocol."""
        if not message.whole:
            raise ValueError("it sent a message larger than agreed")
        told = wire.decode_outward(message.data, len(message.numbers))
        ledger = conveyor.ledger
        useless = 0
        if isinstance(told, wire.Taken):
            useless = ledger.took_all(told.serials, message.pid)
        elif isinstance(told, wire.Done):
            forget, take = ledger.forget, self._exchange.copies.take
            for serial in told.serials:
                if not forget(serial):
                    useless += 1
                elif (copy := take(serial)) is not None:
                    os.close(copy.number)  # see Exchange.forgo
        elif isinstance(told, wire.Kept):
            for serial in told.serials:
                if ledger.keep(serial, message.pid):
                    self._exchange.forgo(serial)
                else:
                    useless += 1
        elif isinstance(told, wire.Ended):
            for serial in told.serials:
                if not ledger.ended(serial):
                    useless += 1
        else:
            conveyor.counts.returned += 1
            progress = not ledger.forget(told.serial)
            if progress:
                ledger.ended(told.serial)
            copy = None if progress else self._exchange.copies.take(told.serial)
            number = message.numbers.pop()
            disbelief = self._owner.came_back(conveyor, told, number, copy, progress)
            if copy is not None:
                close_passed(copy.number)
            if disbelief:
                raise ValueError(f"it handed back a descriptor that is none of the door's: {disbelief}")
            useless = 1
        return useless
