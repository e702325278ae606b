"""Every change there is to the database, each one transaction."""

from __future__ import annotations

import contextlib
from typing import Any, Final, NamedTuple

import msgspec

from fildes.catalogue.faults import translated
from fildes.catalogue.lookup import Lookup, Stored
from fildes.catalogue.policy import split
from fildes.wire.catalogue import Manifest, Policy, Release

FIRST_UID: Final = 1000  # above uid_base: the daemons' own are below

_CURRENT_ID: Final = "SELECT id FROM release WHERE service = ? AND state = 'current'"
_encoder: Final = msgspec.msgpack.Encoder()


class _Dry(Exception):
    """Roll back: it was only to be known what would happen."""


class Change(NamedTuple):
    """What a transaction did, as subscribers must hear it, and the files that nobody needs after it."""

    after: int
    number: int
    put: list[Release]
    gone: list[str]
    unused: list[str]


class Database(Lookup):
    """`uid_base`: services get uids from uid_base + 1000 upward."""

    def __init__(self, directory: int, uid_base: int) -> None:
        super().__init__(directory)
        self.uid_base = uid_base

    def set_policy(self, owner: str, policy: Policy) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO owner VALUES (?, ?)", (owner, _encoder.encode(policy)))

    def set_login(self, uid: int, owner: str) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO login VALUES (?, ?)", (uid, owner))

    def remove_login(self, uid: int) -> bool:
        with self._transaction():
            return self._db.execute("DELETE FROM login WHERE uid = ?", (uid,)).rowcount > 0

    def set_secret(self, owner: str, service: str, name: str, value: bytes) -> Change:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO secret VALUES (?, ?, ?, ?)", (owner, service, name, value))
            change = self._renewed(service)
        self._forget()
        return change

    def remove_secret(self, owner: str, service: str, name: str) -> Change:
        with self._transaction():
            self._db.execute("DELETE FROM secret WHERE owner = ? AND service = ? AND name = ?", (owner, service, name))
            change = self._renewed(service)
        self._forget()
        return change

    def _renewed(self, service: str) -> Change:
        """Its current release once more: who holds what was opened for it (descriptors in stock) opens that anew."""
        current = self.current(service)
        after, number = self._next_number()
        return Change(after, number, [current.release("current")] if current is not None else [], [], [])

    def _forget(self) -> None:
        """Old values leave the log as well (secure_delete has overwritten them in the file)."""
        with translated():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # — the life of a release —

    def add_candidate(
        self,
        id: str,
        owner: str,
        manifest: Manifest,
        created: float,
        bundle: str,
        bundle_size: int,
        pack: str,
        pack_size: int,
        *,
        abi: str,
    ) -> Stored:
        """Write down a candidate, the sizes of its files, and the uid of its service."""
        with self._transaction():
            for digest, size in ((bundle, bundle_size), (pack, pack_size)):
                self._db.execute("INSERT OR IGNORE INTO object VALUES (?, ?)", (digest, size))
            uid = self._uid(owner, manifest.name)
            self._db.execute("UPDATE counter SET value = value + 1 WHERE name = 'sequence'")
            self._db.execute(
                "INSERT INTO release (id, service, owner, sequence, state, created, runtime, manifest, "
                "bundle, pack, abi, uid, size) VALUES "
                "(?, ?, ?, (SELECT value FROM counter WHERE name = 'sequence'), 'candidate', ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    id,
                    manifest.name,
                    owner,
                    created,
                    manifest.runtime,
                    _encoder.encode(manifest),
                    bundle,
                    pack,
                    abi,
                    uid,
                    bundle_size + pack_size,
                ),
            )
        return Stored(id, manifest.name, owner, "candidate", manifest, bundle, pack, abi, uid)

    def _uid(self, owner: str, service: str) -> int:
        self._db.execute(
            "INSERT OR IGNORE INTO uid VALUES (?, ?, (SELECT max(?, coalesce(max(uid) + 1, 0)) FROM uid))",
            (owner, service, self.uid_base + FIRST_UID),
        )
        query = "SELECT uid FROM uid WHERE owner = ? AND service = ?"
        return int(self._db.execute(query, (owner, service)).fetchone()[0])

    def mark_returning(self, id: str) -> None:
        with self._transaction():
            self._db.execute("UPDATE release SET state = 'returning' WHERE id = ? AND state = 'old'", (id,))

    def switch(self, new: Stored, now: float, keep: int) -> Change:
        """Make `new` the current one: everything that is served changes in this one transaction.

        Of the old ones `keep` stay. Raises sqlite3.IntegrityError if a host was taken meanwhile.
        """
        with self._transaction():
            gone = [row[0] for row in self._db.execute(_CURRENT_ID, (new.service,))]
            self._db.execute("UPDATE release SET state = 'old' WHERE service = ? AND state = 'current'", (new.service,))
            self._db.execute("UPDATE release SET state = 'current' WHERE id = ?", (new.id,))
            self._db.execute("INSERT OR IGNORE INTO service VALUES (?, ?, ?)", (new.service, new.owner, now))
            self._db.execute("DELETE FROM host WHERE service = ?", (new.service,))
            rows = [(*split(host), new.service) for host in new.manifest.hosts]
            self._db.executemany("INSERT INTO host VALUES (?, ?, ?)", rows)
            dropped = self._db.execute(
                "DELETE FROM release WHERE id IN (SELECT id FROM release WHERE service = ? AND state = 'old' "
                "ORDER BY sequence DESC LIMIT -1 OFFSET ?) RETURNING bundle, pack",
                (new.service, keep),
            ).fetchall()
            unused = self._unused(dropped)
            after, number = self._next_number()
        return Change(after, number, [new.release("current")], gone, unused)

    def abandon(self, ids: list[str]) -> Change:
        """Candidates go, releases that were returning are old again; all of them are gone for subscribers."""
        with self._transaction():
            dropped: list[Any] = []
            for id in ids:
                dropped += self._db.execute(
                    "DELETE FROM release WHERE id = ? AND state = 'candidate' RETURNING bundle, pack", (id,)
                ).fetchall()
                self._db.execute("UPDATE release SET state = 'old' WHERE id = ? AND state = 'returning'", (id,))
            unused = self._unused(dropped)
            after, number = self._next_number()
        return Change(after, number, [], ids, unused)

    def remove(self, service: str) -> tuple[Change, int]:
        """Take the service away with its releases, hosts and secrets; the number says how many releases."""
        with self._transaction():
            gone = [row[0] for row in self._db.execute(_CURRENT_ID, (service,))]
            self._db.execute(
                "DELETE FROM secret WHERE service = ?1 AND owner = (SELECT owner FROM service WHERE name = ?1)",
                (service,),
            )
            self._db.execute("DELETE FROM host WHERE service = ?", (service,))
            self._db.execute("DELETE FROM service WHERE name = ?", (service,))
            dropped = self._db.execute(
                "DELETE FROM release WHERE service = ? RETURNING bundle, pack", (service,)
            ).fetchall()
            unused = self._unused(dropped)
            after, number = self._next_number()
        self._forget()
        return Change(after, number, [], gone, unused), len(dropped)

    def prune(self, owner: str | None, keep: int, *, dry: bool) -> tuple[Change, int, int]:
        """Old releases go but for the `keep` newest of a service: (the change, how many, bytes of their files)."""
        total = "SELECT coalesce(sum(size), 0) FROM object"
        with contextlib.suppress(_Dry), self._transaction():
            before = self._db.execute(total).fetchone()[0]
            dropped = self._db.execute(
                "DELETE FROM release WHERE id IN (SELECT id FROM (SELECT id, owner, row_number() OVER "
                "(PARTITION BY service ORDER BY sequence DESC) AS place FROM release WHERE state = 'old') "
                "WHERE place > ?2 AND (?1 IS NULL OR owner = ?1)) RETURNING bundle, pack",
                (owner, keep),
            ).fetchall()
            unused = self._unused(dropped)
            size = before - self._db.execute(total).fetchone()[0]
            if dry:
                raise _Dry
            after, number = self._next_number()
        if dry:
            return Change(0, 0, [], [], []), len(dropped), size
        return Change(after, number, [], [], unused), len(dropped), size

    def _unused(self, dropped: list[Any]) -> list[str]:
        """Delete the rows of those files that no release needs now."""
        unused = []
        for digest in sorted({digest for row in dropped for digest in row}):
            if self._db.execute(
                "DELETE FROM object WHERE hash = ?1 AND NOT EXISTS (SELECT 1 FROM release WHERE bundle = ?1)"
                " AND NOT EXISTS (SELECT 1 FROM release WHERE pack = ?1)",
                (digest,),
            ).rowcount:
                unused.append(digest)
        return unused

    def _next_number(self) -> tuple[int, int]:
        number = self._db.execute(
            "UPDATE counter SET value = value + 1 WHERE name = 'number' RETURNING value"
        ).fetchone()[0]
        return number - 1, number
