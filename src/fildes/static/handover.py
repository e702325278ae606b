"""A planned replacement of the static daemon: what it serves goes on.

A connection lies in the fd store, with the place that its answer has come to, until the successor goes on with it. What
waits for something else, or is too much for the store, goes back to the door.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import msgspec

from fildes.daemon.store import Deposit, Store
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, close_all
from fildes.pack.format import PackError
from fildes.static.connection import HELD, LINGERING, WRITING, Connection
from fildes.static.connections import Connections
from fildes.static.sites import Site

PREFIX: Final = "answer."
MOST: Final = 1000  # init keeps 1024 deposits of ours


class Place(msgspec.Struct, array_like=True):
    """Where an answer is: `head` bytes of it are in the memfd beside, before what was read of the next request; then
    `count` bytes of the release's pack from `offset` on."""

    release: str
    serial: int
    once: bool
    closing: bool
    head: int
    offset: int
    count: int


def deposit(store: Store, connections: Connections) -> list[Connection]:
    """Put away what can be: answers that are being written first. The connections that are left, for the door."""
    kept = sorted((c for c in connections if c.state != HELD), key=lambda c: c.state not in (WRITING, LINGERING))
    for number, connection in enumerate(kept[:MOST]):
        site = connection.site
        place = Place(
            site.release if site is not None else "",
            connection.serial,
            connection.once,
            connection.closing or connection.state == LINGERING,
            len(connection.out),
            connection.offset,
            connection.count,
        )
        with memfd.create("answer") as unsent:
            view = memoryview(bytes(connection.out) + connection.buffer)
            while view:
                view = view[os.write(unsent.fileno(), view) :]
            fds: list[Fd | int] = [connection.number, unsent, *([site.fileno()] if site is not None else [])]
            store.deposit(f"{PREFIX}{number}", msgspec.msgpack.encode(place), fds)
        connections.close(connection)
    return list(connections)


def take_up(store: Store, connections: Connections, deposits: Sequence[Deposit]) -> None:
    """Write on where a forerunner stopped. Consumes the deposits with PREFIX among them."""
    sites: dict[str, Site] = {}
    for found in deposits:
        if not found.key.startswith(PREFIX):
            continue
        store.drop(found.key)
        try:
            place = msgspec.msgpack.decode(found.blob, type=Place)
            client, unsent, *pack = found.fds
            if place.release and place.release not in sites:
                sites[place.release] = Site(place.release, pack[0].dup())
            data = _read(unsent)
            connection = Connection(client.take(), place.serial, place.once, 0.0)
            connection.fresh, connection.closing, connection.state = False, place.closing, WRITING
            connection.out, connection.buffer = data[: place.head], data[place.head :]
            if place.release:
                connection.site, connection.offset, connection.count = sites[place.release], place.offset, place.count
                connection.site.use()
            connections.adopt(connection)
        except (msgspec.MsgspecError, ValueError, OSError, PackError):
            continue  # its client sees it end in the middle
        finally:
            close_all(found.fds)
    for site in sites.values():
        site.let_go()  # closed with the last of its answers


def _read(fd: Fd) -> bytes:
    parts, at = [], 0
    while part := os.pread(fd.fileno(), 1 << 20, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
