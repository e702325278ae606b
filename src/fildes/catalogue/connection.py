"""The SQLite file: how it is opened, and what a transaction is.

WAL with synchronous=FULL: a commit is one fsync, and it survives power loss (https://sqlite.org/wal.html). Exclusive
locking: nobody else can open the file, no shared memory is needed, and once it is open SQLite opens no path any more.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from fildes.catalogue import schema
from fildes.catalogue.faults import translated

FILE: Final = "catalogue.db"


class Connection:
    """Owns the one connection there is. Methods raise NoSpace or BadState (faults.py)."""

    def __init__(self, directory: int) -> None:
        """Open or make the database in `directory` (borrowed). Raises schema.TooNew too."""
        with translated():
            self._db = _open(directory)
        try:
            with translated():
                schema.migrate(self._db)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with translated():
            return self._db.execute(query, values).fetchall()

    def _value(self, query: str, *values: Any) -> Any:
        with translated():
            row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]


def _open(directory: int) -> sqlite3.Connection:
    # SQLite knows paths only: the working directory is lent to it for the length of the call.
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(directory)
    try:
        connection = sqlite3.connect(FILE, timeout=0, isolation_level=None, cached_statements=256)
        try:
            os.chmod(FILE, 0o600)
            for pragma in (
                "locking_mode = EXCLUSIVE",  # before WAL: then its index is ordinary memory
                "journal_mode = WAL",
                "synchronous = FULL",
                "temp_store = MEMORY",
                "cache_size = -1024",  # KiB; the kernel caches the file as well
                "foreign_keys = ON",
                "secure_delete = ON",
                "trusted_schema = OFF",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            # Opens the log as well: paths may be out of reach once the process is confined.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    finally:
        os.fchdir(before)
        os.close(before)
    return connection
