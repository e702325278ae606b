"""Who has waited too long, and who may go to make room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fildes.wire.conveyor import MAX_CONNECTIONS
from fildes.wire.http import Bad

if TYPE_CHECKING:
    from fildes.runtime.keeping import Keeping


def sweep(serving: Keeping, now: float) -> None:
    """Look at every connection: whoever owns it knows how long is too long; those that nobody owns are ours."""
    for connection in list(serving.connections.values()):
        waited = now - connection.since
        if connection.owner is not None:
            connection.owner.on_sweep(now)
        elif connection.buffer:
            if waited > serving.head_timeout:
                serving.refuse(connection, Bad(408, f"A request's head took more than {serving.head_timeout:g} s."))
        elif waited > serving.keep_alive:
            serving.close(connection)


def make_room(serving: Keeping) -> bool:
    """Close the longest-kept idle connections, which HTTP allows at any time: new ones bring requests. Whether any."""
    idle = [one for one in serving.connections.values() if one.owner is None and not one.buffer]
    for connection in sorted(idle, key=lambda one: one.since)[:MAX_CONNECTIONS]:
        serving.close(connection)
    return bool(idle)
