"""What is asked of the database without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import msgspec

from fildes.catalogue import snapshots, view
from fildes.catalogue.connection import Connection
from fildes.catalogue.copying import without_secrets
from fildes.catalogue.faults import translated
from fildes.catalogue.policy import Facts, Holder, Target, data_of, lasting, split
from fildes.wire.catalogue import Login, Manifest, Policy, Release, ReleaseInfo, ServiceInfo, State

_manifests: Final = msgspec.msgpack.Decoder(Manifest)
_encoder: Final = msgspec.msgpack.Encoder()
_policies: Final = msgspec.msgpack.Decoder(Policy)


class Stored(NamedTuple):
    """A release as its row has it."""

    id: str
    service: str
    owner: str
    state: Literal["candidate", "current", "old", "returning"]
    manifest: Manifest
    bundle: str
    pack: str
    abi: str
    uid: int

    def release(self, state: State) -> Release:
        return view.release(self.manifest, self.id, self.owner, self.uid, state, self.bundle, self.pack, self.abi)


class _Hosts(msgspec.Struct):
    """What of a stored manifest the list of services needs."""

    hosts: list[str]


_hosts: Final = msgspec.msgpack.Decoder(_Hosts)
_COLUMNS: Final = "id, service, owner, state, manifest, bundle, pack, abi, uid"


def _stored(row: Any) -> Stored:
    id, service, owner, state, manifest, bundle, pack, abi, uid = row
    return Stored(id, service, owner, state, _manifests.decode(manifest), bundle, pack, abi, uid)


class Lookup(Connection):
    """Methods raise BadState (faults.py)."""

    # — what subscribers see —

    def number(self) -> int:
        return int(self._value("SELECT value FROM counter WHERE name = 'number'"))

    def snapshot(self, audience: str) -> Iterator[bytes]:
        """The msgpack list for `audience`, in pieces. Nothing may be changed before the last is taken."""
        values: tuple[bool, ...] = ()
        if audience == "bus":
            query, items = snapshots.RIGHTS, snapshots.rights
        elif audience == "orchestrator":
            query, items = snapshots.RELEASES, snapshots.releases
        else:
            query, items, values = snapshots.ROUTES, snapshots.routes, (audience != "static",)
        count = self._value(f"SELECT count(*) FROM ({query})", *values)
        with translated():
            yield from snapshots.listed(count, items(self._db.execute(query, values)))

    # — looking —

    def facts(self, manifest: Manifest, owner: str) -> Facts:
        """What policy.check needs to know about the names in `manifest`."""
        hosts = {split(host)[0] for host in manifest.hosts}
        targets = {grant.to for grant in manifest.grants if grant.kind == "connect" and grant.to is not None}
        held = {
            host: [
                Holder(*row)
                for row in self._rows(
                    "SELECT h.prefix, h.service, s.owner FROM host h JOIN service s ON s.name = h.service "
                    "WHERE h.host = ?",
                    host,
                )
            ]
            for host in hosts
        }
        found = {name: self.current(name) for name in targets}
        return Facts(
            service_owner=self.owner(manifest.name),
            services=self._value("SELECT count(*) FROM service WHERE owner = ? AND name <> ?", owner, manifest.name),
            hosts=held,
            targets={name: Target(t.owner, t.manifest.offers) for name, t in found.items() if t is not None},
            secrets=frozenset(self.secrets(owner, manifest.name))
            if any(g.kind == "secret" for g in manifest.grants)
            else frozenset(),
            data=self._data(owner, manifest.name) if data_of(manifest) else 0,
        )

    def _data(self, owner: str, besides: str) -> int:
        """Bytes of the quotas of what this owner's other services keep."""
        rows = self._rows(
            "SELECT manifest FROM release WHERE owner = ? AND service <> ? AND state = 'current' "
            "AND (instr(manifest, ?) OR instr(manifest, ?))",
            *(owner, besides, b"sqlite", b"files"),
        )
        return sum(data_of(_manifests.decode(row[0])) for row in rows)

    def lasting(self, owner: str, besides: str) -> set[tuple[str, str]]:
        """(service, grant) of all that this owner's other services keep now."""
        rows = self._rows(
            "SELECT service, manifest FROM release WHERE owner = ? AND service <> ? AND state = 'current' "
            "AND (instr(manifest, ?) OR instr(manifest, ?))",
            *(owner, besides, b"sqlite", b"files"),
        )
        return {(service, grant) for service, manifest in rows for grant in lasting(_manifests.decode(manifest))}

    def stored(self, owner: str, besides: str) -> int:
        """Bytes of this owner's releases, those of the service `besides` apart."""
        return int(
            self._value("SELECT coalesce(sum(size), 0) FROM release WHERE owner = ? AND service <> ?", owner, besides)
        )

    def owner(self, service: str) -> str | None:
        owner: str | None = self._value("SELECT owner FROM service WHERE name = ?", service)
        return owner

    def tried_by_others(self, service: str, owner: str) -> bool:
        """Has somebody else ever published under this name?"""
        return bool(self._value("SELECT 1 FROM uid WHERE service = ? AND owner <> ?", service, owner))

    def find(self, id: str) -> Stored | None:
        rows = self._rows(f"SELECT {_COLUMNS} FROM release WHERE id = ?", id)
        return _stored(rows[0]) if rows else None

    def current(self, service: str) -> Stored | None:
        rows = self._rows(f"SELECT {_COLUMNS} FROM release WHERE service = ? AND state = 'current'", service)
        return _stored(rows[0]) if rows else None

    def before(self, id: str) -> Stored | None:
        """The newest release of the same service that was published before `id`."""
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM release WHERE state = 'old' "
            "AND service = (SELECT service FROM release WHERE id = ?1) "
            "AND sequence < (SELECT sequence FROM release WHERE id = ?1) ORDER BY sequence DESC LIMIT 1",
            id,
        )
        return _stored(rows[0]) if rows else None

    def packed(self, owner: str, bundle: str, abi: str) -> str | None:
        """The pack that was made of `bundle` for `abi` for this owner: others' are not trusted."""
        pack: str | None = self._value(
            "SELECT pack FROM release WHERE owner = ? AND bundle = ? AND abi = ? ORDER BY sequence DESC LIMIT 1",
            owner,
            bundle,
            abi,
        )
        return pack

    def size(self, digest: str) -> int:
        return int(self._value("SELECT size FROM object WHERE hash = ?", digest) or 0)

    def releases(self, service: str) -> list[ReleaseInfo]:
        """Newest first; candidates are nobody's business."""
        return [
            ReleaseInfo(id, "old" if state == "returning" else state, created, bundle, abi, size)
            for id, state, created, bundle, abi, size in self._rows(
                "SELECT id, state, created, bundle, abi, size FROM release "
                "WHERE service = ? AND state <> 'candidate' ORDER BY sequence DESC",
                service,
            )
        ]

    def services(self, owner: str | None, listening: list[str], *, coming: bool) -> tuple[int, Iterator[bytes]]:
        """How many, and the msgpack list of ServiceInfo in pieces, by name; with `coming` of candidates too."""
        query = (
            "SELECT r.service, r.owner, r.runtime, r.id, r.created, r.abi, r.manifest FROM release r "
            "WHERE (r.state = 'current' OR (?2 AND r.state = 'candidate')) AND (?1 IS NULL OR r.owner = ?1)"
        )

        def infos() -> Iterator[bytes]:
            rows = self._db.execute(f"{query} ORDER BY r.service", (owner, coming))
            for service, its_owner, runtime, id, created, abi, manifest in rows:
                hosts = _hosts.decode(manifest).hosts
                urls = view.urls(hosts, listening)
                yield _encoder.encode(ServiceInfo(service, its_owner, runtime, id, hosts, urls, created, abi))

        count = int(self._value(f"SELECT count(*) FROM ({query})", owner, coming))
        return count, snapshots.listed(count, infos())

    def has_object(self, digest: str) -> bool:
        return self._value("SELECT 1 FROM object WHERE hash = ?", digest) is not None

    def objects(self) -> set[str]:
        return {row[0] for row in self._rows("SELECT hash FROM object")}

    def passing(self) -> list[str]:
        """Releases on their way: at a start, those that nobody waits for any more."""
        return [row[0] for row in self._rows("SELECT id FROM release WHERE state IN ('candidate', 'returning')")]

    # — owners and secrets —

    def policy(self, owner: str) -> Policy:
        blob = self._value("SELECT policy FROM owner WHERE name = ?", owner)
        return Policy() if blob is None else _policies.decode(blob)

    def logins(self, uid: int | None) -> list[Login]:
        query = "SELECT uid, owner FROM login WHERE ?1 IS NULL OR uid = ?1 ORDER BY owner, uid"
        return [Login(*row) for row in self._rows(query, uid)]

    def secrets(self, owner: str, service: str) -> list[str]:
        rows = self._rows("SELECT name FROM secret WHERE owner = ? AND service = ? ORDER BY name", owner, service)
        return [row[0] for row in rows]

    def all_secrets(self) -> list[tuple[str, str, str, bytes]]:
        """(owner, service, name, value)"""
        return [tuple(row) for row in self._rows("SELECT owner, service, name, value FROM secret")]

    def copy(self) -> bytes:
        """The whole database as one file, without the secrets."""
        with translated():
            return without_secrets(self._db)

    def secret(self, owner: str, service: str, name: str) -> bytes | None:
        value: bytes | None = self._value(
            "SELECT value FROM secret WHERE owner = ? AND service = ? AND name = ?", owner, service, name
        )
        return value
