"""The holder's side of a database: a connection of Python's own sqlite3, to the path of the grant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

BUSY: float = 10.0  # seconds that a statement waits while another connection writes


def connect(path: str, *, writable: bool = True) -> sqlite3.Connection:
    """A new connection. It belongs to the thread that asks for it, as sqlite3's connections do."""
    import sqlite3

    connection = sqlite3.connect(path, timeout=BUSY)
    if not writable:
        connection.execute("PRAGMA query_only = ON")
    return connection
