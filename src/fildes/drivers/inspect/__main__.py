"""inspect: tells which descriptors processes hold.

In: its channel, and CAP_SYS_PTRACE where the node has root. It opens /proc and nothing else, and parses only what
the kernel says.
"""

from __future__ import annotations

from typing import Final

from fildes.daemon.peer import Asked, Peer, Refused
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.drivers.inspect.tables import table
from fildes.kernel import memfd
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop
from fildes.wire.drivers import Inspect, Inspected, write_tables

_MOST: Final = 4096  # processes a request


async def fds(asked: Asked[Inspect]) -> tuple[Inspected, list[Fd]]:
    pids = asked.body.pids
    if len(pids) > _MOST or any(pid <= 0 for pid in pids):
        raise Refused("malformed", f"up to {_MOST} pids at a time, each above 0")
    tables = [table(pid) for pid in pids]
    return Inspected(len(tables)), [memfd.sealed("tables", write_tables(tables))]


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    peer.on("inspect.fds", Inspect, fds)
    confine("inspect")
    store.ready()
    loop.run()
