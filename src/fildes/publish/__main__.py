"""publish: uploads → bundles and packs. Its parts: the loop here, a forked child for every piece of reading, and the
cell (cell.py, runner.py), in which uv and the interpreter run.

In: its channel, fds["scratch"]. It starts with the privileges that making the cell takes, and gives them up before
it reads a byte of anybody's.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import os
import sys
from typing import Any

from fildes.daemon.peer import Peer
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.kernel import process
from fildes.kernel.fds import Fd, seqpacket_pair
from fildes.kernel.loop import Loop
from fildes.publish import cell, environment, runner
from fildes.publish.flow import Publishing
from fildes.publish.resolver import Resolver
from fildes.publish.scratch import Scratch
from fildes.sandbox import profile
from fildes.wire.publish import Cancel, Clean, Lock, Publish, Repack

RESOLVER_UID: int = 12  # offset from the node's first uid; init's table says publish is 10 and debug 11


def main(inheritance: Inheritance) -> None:
    settings = inheritance.settings
    load_ahead()
    scratch = Scratch(inheritance.fds["scratch"])
    control = start_cell(scratch.cell(), settings)
    process.drop_capabilities()

    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    resolver = Resolver(loop, peer, control, on_end=lambda: ended(loop))
    publishing = Publishing(loop, peer, scratch, resolver)
    peer.on("publish.publish", Publish, publishing.publish)
    peer.on("publish.repack", Repack, publishing.repack)
    peer.on("publish.lock", Lock, publishing.lock)
    peer.on("publish.clean", Clean, publishing.clean)
    peer.on_event("publish.cancel", Cancel, publishing.cancel)
    confine("publish")
    store.ready()
    loop.run()


def load_ahead() -> None:
    """What is otherwise imported when it is first needed, and then is out of reach."""
    environment.here()
    for codec in ("idna", "punycode"):  # hosts in manifests
        codecs.lookup(codec)


def start_cell(scratch: str, settings: dict[str, Any]) -> Fd:
    """Fork the runner into its cell; our end of the socket to it. When that closes, the runner ends. It is a child of
    init's, as everything is whose parent has left."""
    import uv

    index = settings.get("index", {})
    room = cell.Cell(
        scratch=scratch,
        uid=settings["uid_base"] + RESOLVER_UID if settings.get("root") else None,
        python=cell.interpreter(),
        uv=os.path.realpath(uv.find_uv_bin()),
        ca=index.get("ca", ""),
        filter=profile.compile(profile.load("cell")),
    )
    ours, theirs = seqpacket_pair()
    gc.collect()
    gc.freeze()  # or the first collection there would copy every page that is shared so far
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            process.close_all_but({0, 1, 2, theirs.fileno()})
            place = cell.enter(room)
            for text in place.missing:
                print(f"fildes: publish: packages are resolved without a room of their own: {text}", file=sys.stderr)
            runner.run(theirs, place, index)
            status = 0
        except BaseException as error:
            with contextlib.suppress(OSError):
                print(f"fildes: publish: the resolver ended: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    theirs.close()
    os.waitpid(pid, 0)
    return ours


def ended(loop: Loop) -> None:
    """The cell can't be made again without the privileges of the start: init starts us afresh."""
    print("fildes: publish: the resolver ended; starting again", file=sys.stderr)
    loop.stop()
