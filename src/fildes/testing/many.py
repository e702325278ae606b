"""Thousands of services in a node's catalogue without as many publishes: copies of one, while the node is down."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec


def copies(state: Path, service: str, number: int) -> list[str]:
    """Add `number` services like `service`, which must be published, to a node that does not run; their names."""
    database = sqlite3.connect(state / "catalogue" / "catalogue.db", isolation_level=None)
    try:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN IMMEDIATE")
        names = _add(database, service, number)
        database.execute("COMMIT")
    finally:
        database.close()
    return names


def _add(database: sqlite3.Connection, service: str, count: int) -> list[str]:
    database.row_factory = sqlite3.Row
    like: dict[str, Any] = dict(
        database.execute("SELECT * FROM release WHERE service = ? AND state = 'current'", (service,)).fetchone()
    )
    uid = database.execute("SELECT max(uid) FROM uid").fetchone()[0]
    [sequence] = database.execute("SELECT value FROM counter WHERE name = 'sequence'").fetchone()
    manifest = msgspec.msgpack.decode(like["manifest"])
    columns = ", ".join(like)
    places = ", ".join("?" * len(like))
    names = []
    for number in range(1, count + 1):
        name = f"{service}-{sequence + number}"  # never had before
        names.append(name)
        host = f"{name}.localhost"
        one = {**manifest, "name": name, "hosts": [host]}
        new = {
            "id": f"{sequence + number:012x}",
            "service": name,
            "sequence": sequence + number,
            "uid": uid + number,
            "manifest": msgspec.msgpack.encode(one),
        }
        database.execute(f"INSERT INTO release ({columns}) VALUES ({places})", tuple((like | new).values()))
        database.execute("INSERT INTO service VALUES (?, ?, ?)", (name, like["owner"], like["created"]))
        database.execute("INSERT INTO uid VALUES (?, ?, ?)", (like["owner"], name, uid + number))
        database.execute("INSERT INTO host VALUES (?, ?, ?)", (host, "/", name))
    database.execute("UPDATE counter SET value = ? WHERE name = 'sequence'", (sequence + count,))
    database.execute("UPDATE counter SET value = value + 1 WHERE name = 'number'")
    return names
