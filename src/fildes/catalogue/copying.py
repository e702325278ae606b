"""A copy of the database for a backup: consistent, one file, without the secrets."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Final

_FORMATS: Final = slice(18, 20)  # of the header: 2 where a log is to be looked for (sqlite.org/fileformat)


def without_secrets(database: sqlite3.Connection) -> bytes:
    """The bytes of `database` as of now; no page of them has held a secret."""
    data = bytearray(database.serialize())
    data[_FORMATS] = b"\x01\x01"  # what was in the log is in here
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        copy.deserialize(bytes(data))
        copy.execute("PRAGMA temp_store = MEMORY")
        copy.execute("PRAGMA secure_delete = ON")
        copy.execute("DELETE FROM secret")
        copy.execute("VACUUM")
        return copy.serialize()
