"""A release's conveyor and who knows of it: the fd store, the door, and this process while nobody takes from it."""

from __future__ import annotations

from collections.abc import Callable

from fildes.daemon.peer import Peer
from fildes.daemon.store import Deposit, Store
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop
from fildes.orchestrator.conveyor import Conveyor
from fildes.orchestrator.instances import BLOB
from fildes.wire import web
from fildes.wire.catalogue import Release


class Doorway:
    """Owns the conveyor, which is made when somebody asks for it first."""

    def __init__(self, loop: Loop, peer: Peer, store: Store, release: Release) -> None:
        self._loop, self._peer, self._store, self._release = loop, peer, store, release
        self._key = f"conveyor.{release.id}"
        self._conveyor: Conveyor | None = None

    def __bool__(self) -> bool:
        return self._conveyor is not None

    def open(self) -> Conveyor:
        """The conveyor; a new one where an instance has broken the old one, for whoever asks from now on."""
        if self._conveyor is not None and self._conveyor.broken:
            self._conveyor.close()
            self._conveyor = None
        if self._conveyor is None:
            self._conveyor = Conveyor.make(self._loop)
            self.keep()
        return self._conveyor

    def keep(self, halted: str = "") -> None:
        """In the store; with the reason when the release is halted: a successor must know, as the door does."""
        if self._conveyor is not None:
            ends = [self._conveyor.sending, self._conveyor.receiving]
            self._store.deposit(self._key, halted.encode()[:BLOB], ends)

    def adopt(self, deposit: Deposit) -> str:
        """Take up what a forerunner left. Why the release is halted; "" if it isn't."""
        sending, receiving = deposit.fds
        self._conveyor = Conveyor(self._loop, sending, receiving)
        return deposit.blob.decode("utf-8", "replace")

    def announce(self) -> None:
        """The door was told that this release takes nothing any more: it gets the conveyor unasked."""
        reopened = web.Conveyor(self._release.id, self._release.service)
        self._peer.tell("web.conveyor", reopened, [self.open().sending.dup()])

    def sending(self) -> Fd:
        """A duplicate of the door's end."""
        return self.open().sending.dup()

    def waiting(self) -> int:
        """How many messages lie in the queue now, at the least; 0 where there is no conveyor."""
        return self._conveyor.waiting() if self._conveyor is not None else 0

    def watch(self, wanted: Callable[[], object]) -> None:
        """Call `wanted` once, when something waits; instead of whom was to be called before."""
        if self._conveyor is not None:
            self._conveyor.unwatch()
            self._conveyor.watch(wanted)

    def unwatch(self) -> None:
        if self._conveyor is not None:
            self._conveyor.unwatch()

    def hand_back(self) -> None:
        """What waits goes back to the door, which answers or routes it anew."""
        if self._conveyor is not None:
            self._conveyor.hand_back()

    def drop(self) -> None:
        """What waits goes back, and there is no conveyor any more."""
        if self._conveyor is not None:
            self._conveyor.hand_back()
            self._conveyor.close()
            self._conveyor = None
            self._store.drop(self._key)
