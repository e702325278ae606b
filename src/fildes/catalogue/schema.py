"""The tables, as a list of steps from each version to the next. A step that was released is never changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

FIRST: Final = """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- number: of the last change that subscribers were told of; sequence: of the last release made
INSERT INTO counter VALUES ('number', 0), ('sequence', 0);

CREATE TABLE owner (name TEXT PRIMARY KEY, policy BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE service (name TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX service_owner ON service (owner);

-- Never deleted from: files of a removed service must not become another's.
CREATE TABLE uid (
    owner TEXT NOT NULL, service TEXT NOT NULL, uid INTEGER NOT NULL UNIQUE, PRIMARY KEY (owner, service)
) STRICT, WITHOUT ROWID;

-- A release may be there before its service is (its first candidate), hence no foreign key.
-- returning: an old one that is being warmed again.
CREATE TABLE release (
    id TEXT PRIMARY KEY, service TEXT NOT NULL, owner TEXT NOT NULL, sequence INTEGER NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('candidate', 'current', 'old', 'returning')),
    created REAL NOT NULL, runtime TEXT NOT NULL, manifest BLOB NOT NULL,
    bundle TEXT NOT NULL REFERENCES object, pack TEXT NOT NULL REFERENCES object, abi TEXT NOT NULL,
    uid INTEGER NOT NULL, size INTEGER NOT NULL -- of bundle and pack
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX release_current ON release (service) WHERE state = 'current';
CREATE INDEX release_passing ON release (state) WHERE state IN ('candidate', 'returning');
CREATE INDEX release_service ON release (service, sequence);
CREATE INDEX release_owner ON release (owner, bundle);
CREATE INDEX release_size ON release (owner, service, size);
CREATE INDEX release_bundle ON release (bundle);
CREATE INDEX release_pack ON release (pack);

-- Of current releases only: what is served.
CREATE TABLE host (
    host TEXT NOT NULL, prefix TEXT NOT NULL, service TEXT NOT NULL, PRIMARY KEY (host, prefix)
) STRICT, WITHOUT ROWID;
CREATE INDEX host_service ON host (service);

CREATE TABLE secret (
    owner TEXT NOT NULL, service TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (owner, service, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE object (hash TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

# At the control socket a uid of the machine stands for an owner.
LOGINS: Final = """
CREATE TABLE login (uid INTEGER PRIMARY KEY, owner TEXT NOT NULL) STRICT;
"""

STEPS: Final[Sequence[str]] = (FIRST, LOGINS)


class TooNew(Exception):
    """The database was written by a later version of fildes."""


def migrate(connection: sqlite3.Connection, steps: Sequence[str] = STEPS) -> None:
    """Bring the database to the newest version, each step in a transaction of its own. Raises TooNew."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise TooNew(
            f"this state was last used by a later fildes (catalogue version {version}, this one knows {len(steps)}): "
            "start that one again, or another --state"
        )
    for number in range(version, len(steps)):
        script = f"BEGIN IMMEDIATE;\n{steps[number]}\nPRAGMA user_version = {number + 1};\nCOMMIT;"
        try:
            connection.executescript(script)
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
