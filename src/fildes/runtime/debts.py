"""What clients have not taken yet of their answers: so many bytes at most, whoever they are.

A client that never reads costs memory, and never a place among the requests that run: while an answer waits for its
client, others are served. When all that waits is more than OWED bytes, the connections on which nothing has moved for
longest are closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fildes.runtime.connection import Connection

if TYPE_CHECKING:
    from fildes.runtime.keeping import Keeping

OWED = 16 * 1024 * 1024  # bytes
STALL = 1.0  # s without a byte taken, after which a connection may be closed for the others' sake


class Debts:
    def __init__(self, serving: Keeping, limit: int) -> None:
        self.serving = serving
        self.limit = limit
        self.owed = 0  # bytes
        self._held: dict[Connection, int] = {}  # bytes each, the one that has not moved for longest first

    def grew(self, connection: Connection) -> None:
        """More is to be written to it than the socket takes."""
        self._count(connection)
        if self.owed > self.limit:
            self.relieve()

    def moved(self, connection: Connection) -> None:
        """Its client has taken something, or all, or is gone."""
        self.owed -= self._held.pop(connection, 0)
        if connection.out is not None:
            self._count(connection)

    def relieve(self) -> bool:
        """Close those that stand still while too much is owed; whether there is room then."""
        while self.owed > self.limit:
            now = self.serving.time()
            longest = next(iter(self._held))
            if now - longest.since < STALL:
                return False
            self.serving.close(longest)
        return True

    def _count(self, connection: Connection) -> None:
        # All of the buffer stays in memory while a part of it is to be written.
        size = memoryview(connection.out.obj).nbytes if connection.out is not None else 0
        self.owed += size - self._held.get(connection, 0)
        self._held[connection] = size
