"""The catalogue's process: open the database, sweep what a killed forerunner left, answer."""

from __future__ import annotations

import sys
import time

from fildes.catalogue.database import Database
from fildes.catalogue.faults import BadState, NoSpace
from fildes.catalogue.objects import Objects
from fildes.catalogue.publishing import Publishing
from fildes.catalogue.schema import TooNew
from fildes.catalogue.verbs import Verbs
from fildes.daemon.peer import Peer
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.kernel.loop import Loop


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    state = inheritance.fds["state"].fileno()
    listening = list(inheritance.settings.get("http", ()))
    try:
        database = Database(state, inheritance.settings.get("uid_base") or 0)
        objects = Objects(loop, state)
        publishing = Publishing(loop, peer, database, objects, listening, time.time)
        lost = publishing.recover()
    except (TooNew, BadState, NoSpace) as error:
        print(f"fildes: the catalogue cannot start: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    if lost:
        text = f"{len(lost)} stored files are lost, {lost[0]} first: publish the services that fail again"
        print(f"fildes: catalogue: {text}", file=sys.stderr)
    Verbs(publishing, listening).register()
    confine("catalogue")
    store.ready()
    loop.run()
    database.close()
    objects.close()
