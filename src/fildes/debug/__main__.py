"""debug: the operator's door over the control socket.

In: its channel, fds["control"], a listening SOCK_SEQPACKET socket. It may ask init what runs. It holds no state: an
operator whose question was open when it was killed asks again.
"""

from __future__ import annotations

from fildes.daemon.peer import Peer
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.debug.backups import Backups
from fildes.debug.door import Door
from fildes.debug.keeping import Keeping
from fildes.debug.owners import Owners
from fildes.debug.verbs import Verbs
from fildes.kernel import credentials
from fildes.kernel.loop import Loop


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    verbs = Verbs(peer, store)
    operator = int(inheritance.settings["operator"])
    owners = Owners(peer)
    table = owners.guarded(verbs.table() | owners.table() | Backups(peer).table() | Keeping(peer).table())
    Door(loop, inheritance.fds["control"], table, owners.of, operator, credentials.overflow_uid())
    confine("debug")
    store.ready()
    loop.run()
