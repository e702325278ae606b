"""What clients have not taken yet of their answers: so many bytes at most, whoever they are.

A client that never reads costs memory, and never a place among the requests that run: while an answer waits for its
client, others are served. When all that waits is more than OWED bytes, no request begins, and the connections on which
nothing has moved for longest are closed.
"""

from __future__ import annotations

from asyncio import TimerHandle
from typing import TYPE_CHECKING

from fildes.runtime.connection import Connection

if TYPE_CHECKING:
    from fildes.runtime.keeping import Keeping

OWED = 16 * 1024 * 1024  # bytes
STALL = 0.5  # s without a byte taken, after which a connection may be closed for the others' sake


class Debts:
    def __init__(self, serving: Keeping, limit: int) -> None:
        self.serving = serving
        self.limit = limit
        self.owed = 0  # bytes
        self._timer: TimerHandle | None = None
        self._held: dict[Connection, int] = {}  # bytes each, the one that has not moved for longest first

    def grew(self, connection: Connection) -> None:
        """More is to be written to it than the socket takes."""
        self._count(connection)
        if self.owed > self.limit:
            self.relieve()

    def moved(self, connection: Connection) -> None:
        """Its client has taken something, or all, or is gone."""
        before = self.owed
        self.owed -= self._held.pop(connection, 0)
        if connection.out is not None:
            self._count(connection)
        if before > self.limit >= self.owed:
            self.serving.loop.call_soon(self.serving.next_turns)

    def are_high(self) -> bool:
        """No further request should begin."""
        return self.owed > self.limit

    def relieve(self) -> None:
        """Close those that stand still while too much is owed, now and again later."""
        while self.owed > self.limit:
            now = self.serving.time()
            longest = next(iter(self._held))
            if (left := longest.since + STALL - now) > 0:
                if self._timer is None:
                    self._timer = self.serving.loop.call_later(left, self._again)
                return
            self.serving.close(longest)

    def _again(self) -> None:
        self._timer = None
        self.relieve()

    def dispose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _count(self, connection: Connection) -> None:
        # All of the buffer stays in memory while a part of it is to be written.
        size = memoryview(connection.out.obj).nbytes if connection.out is not None else 0
        self.owed += size - self._held.get(connection, 0)
        self._held[connection] = size
