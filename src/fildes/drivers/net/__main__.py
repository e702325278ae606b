"""net: opens TCP connections for grants that name a host and a port, and the proxy to the package indexes.

In: its channel. Settings used: index["hosts"]. It parses what DNS answers and what tenants' grants say, and holds no
connection that it made: each is given away at once.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from fildes.capabilities.connect.grant import Address, address_of
from fildes.daemon.peer import Asked, Peer, Refused
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.drivers.net import addresses, lookup
from fildes.drivers.net.census import CAP, Census, Tables
from fildes.drivers.net.dial import Unreachable, dial
from fildes.drivers.net.lookup import Lookup, NotFound
from fildes.drivers.net.proxy import IndexProxy
from fildes.kernel.fds import Fd, seqpacket_pair, set_blocking
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.wire.drivers import Open, Opened
from fildes.wire.publish import Index


class Net:
    def __init__(self, loop: Loop, lookup: Lookup, census: Census, settings: dict[str, Any]) -> None:
        self._loop, self._lookup, self._census = loop, lookup, census
        self._hosts = frozenset(host.lower() for host in settings.get("index", {}).get("hosts", ()))

    # — net.open —

    async def open(self, asked: Asked[Open]) -> tuple[Opened, list[Fd]]:
        grant = asked.body
        where = f"[grants.{grant.name}] of {grant.service}"
        to = address_of(str(grant.options.get("to", "")))
        if grant.kind != "connect" or to is None:
            raise Refused("malformed", f'{where}: net opens grants of kind "connect" to "host:port", and no others')
        key, cap = (grant.release, grant.name), int(grant.options.get("connections", CAP))
        if not self._census.begin(key, cap):
            raise Refused(
                "quota",
                f"{where} has {cap} connections open, which is its cap: close some, or keep them in a pool",
                f"[grants.{grant.name}]\nconnections = {2 * cap}",
            )
        inode = None
        try:
            fd = await self._connect(grant, where, to)
            inode = os.fstat(fd.fileno()).st_ino
        finally:
            self._census.end(key, inode)
        return Opened(grant.kind), [fd]

    async def _connect(self, grant: Open, where: str, to: Address) -> Fd:
        try:
            found = await self._lookup.addresses(to.host)
        except NotFound as error:
            text = f"{where}: no address for {to.host} ({error}); check `to`, and this machine's name resolution"
            raise Refused("unreachable", text) from error
        private = grant.options.get("private") is True
        reasons = {address: addresses.refused(address, private) for address in found}
        usable = [address for address, reason in reasons.items() if reason is None]
        if not usable:
            said = ", ".join(f"{address} ({reason})" for address, reason in reasons.items())
            raise Refused(
                "not-allowed",
                f"{where}: {to.host} is {said}; a grant reaches public addresses only unless it says private = true",
                f'[grants.{grant.name}]\nkind = "connect"\nto = "{to.host}:{to.port}"\nprivate = true',
            )
        try:
            fd = await dial(self._loop, usable, to.port)
        except Unreachable as error:
            raise Refused("unreachable", f"{where}: {to.host}:{to.port} did not answer ({error})") from error
        set_blocking(fd.fileno(), True)  # as every stream is that a program is given
        return fd

    # — net.index —

    async def index(self, asked: Asked[Index]) -> tuple[Index, list[Fd]]:
        (listener,) = asked.take_fds(1)
        ours, theirs = seqpacket_pair()
        proxy = IndexProxy(self._loop, self._lookup, listener, self._hosts)

        def lease_ended(_: int) -> None:
            self._loop.unwatch(ours.fileno())
            ours.close()
            proxy.close()

        self._loop.watch(ours.fileno(), EPOLLIN, lease_ended)
        return Index(), [theirs]


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    net = Net(loop, Lookup(loop), Census(Tables().living), inheritance.settings)
    peer.on("net.open", Open, net.open)
    peer.on("net.index", Index, net.index)
    with contextlib.suppress(OSError):
        lookup.addresses_of("localhost")  # loads what name resolution needs while it still may be loaded
    confine("net")
    store.ready()
    loop.run()
