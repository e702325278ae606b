"""A whole snapshot as msgpack, from rows: what is only passed on is copied as it was stored, not decoded.

With ten thousand services that is the difference between a tenth of a second and a pause that people notice. A row at
a time, since memory that was needed once is not given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from fildes.wire.catalogue import Limits, Route

_PIECE: Final = 64 << 10  # bytes
_USUAL: Final = Limits()
_EMPTY_LIST: Final = Raw(b"\x90")
_EMPTY_TEXT: Final = Raw(b"\xa0")  # of releases that an earlier version stored


class _Stored(msgspec.Struct):
    """Manifest, as far as it is looked at here. The encoder leaves no field out."""

    entry: str
    hosts: Raw
    env: Raw
    grants: Raw
    limits: Raw
    offers: list[str]
    on_release: Raw = _EMPTY_LIST
    health: Raw = _EMPTY_TEXT


class _Doors(msgspec.Struct):
    """Limits, as far as the door keeps them."""

    body: int = _USUAL.body
    timeout: float = _USUAL.timeout
    connections: int = _USUAL.connections


class _Limited(msgspec.Struct):
    limits: _Doors


class _Release(msgspec.Struct):
    """Release, field by field."""

    id: str
    service: str
    owner: str
    runtime: str
    entry: str
    hosts: Raw
    env: Raw
    grants: Raw
    limits: Raw
    offers: list[str]
    bundle: str
    pack: str
    abi: str
    uid: int
    state: str
    on_release: Raw
    health: Raw


class _Rights(msgspec.Struct):
    """Rights, field by field."""

    release: str
    service: str
    owner: str
    grants: Raw
    offers: list[str]


RELEASES: Final = (
    "SELECT id, service, owner, runtime, manifest, bundle, pack, abi, uid FROM release WHERE state = 'current'"
)
RIGHTS: Final = "SELECT id, service, owner, manifest FROM release WHERE state = 'current'"
ROUTES: Final = (
    "SELECT h.host, h.prefix, h.service, r.id, r.owner, r.runtime, r.manifest FROM host h "
    "JOIN release r ON r.service = h.service AND r.state = 'current' WHERE r.runtime = 'static' OR ?"
)

_limited: Final = msgspec.msgpack.Decoder(_Limited)
_stored: Final = msgspec.msgpack.Decoder(_Stored)
_encoder: Final = msgspec.msgpack.Encoder()


def releases(rows: Iterable[Any]) -> Iterator[bytes]:
    for id, service, owner, runtime, manifest, bundle, pack, abi, uid in rows:
        of = _stored.decode(manifest)
        first = (id, service, owner, runtime, of.entry, of.hosts, of.env, of.grants, of.limits, of.offers)
        yield _encoder.encode(_Release(*first, bundle, pack, abi, uid, "current", of.on_release, of.health))


def rights(rows: Iterable[Any]) -> Iterator[bytes]:
    for id, service, owner, manifest in rows:
        of = _stored.decode(manifest)
        yield _encoder.encode(_Rights(id, service, owner, of.grants, [name.rpartition("/")[2] for name in of.offers]))


def routes(rows: Iterable[Any]) -> Iterator[bytes]:
    for host, prefix, service, release, owner, runtime, manifest in rows:
        of = _limited.decode(manifest).limits
        yield _encoder.encode(
            Route(host, prefix, service, release, owner, runtime, of.body, of.timeout, of.connections)
        )


def listed(count: int, items: Iterable[bytes]) -> Iterator[bytes]:
    """A msgpack array of `count` items, in pieces of some size: one item at a time is in memory."""
    piece = bytearray(b"\xdd" + count.to_bytes(4, "big"))
    for item in items:
        piece += item
        if len(piece) > _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)
