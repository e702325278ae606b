"""Why a process holds each of its descriptors. Pure: the kernel's table in, the same with reasons out.

What the orchestrator says it gave is matched by the descriptor's own name (the inode of a socket or pipe). The rest
the runtime makes for itself. What neither explains has no reason, and is shown so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from fildes.wire.catalogue import Grant
from fildes.wire.drivers import FdEntry

# What the runtime makes for itself, by the name that the kernel shows: it reaches nothing outside of the process.
_RUNTIME: Final = {
    "/dev/null": "runtime: standard input and output",
    "anon_inode:[eventpoll]": "runtime: event loop",
    "anon_inode:[eventfd]": "runtime: event loop's wake-up",
}
_BY_KIND: Final = {  # descriptors that a grant of this kind opens: what their names begin with
    "clock": ("anon_inode:[timerfd]", "/memfd:clock"),
    "random": ("/dev/urandom",),
    "secret": ("/memfd:secret",),
}


def why(entry: FdEntry, held: Mapping[str, str], grants: Collection[Grant]) -> str:
    """The reason for `entry`, "" if there is none. `held`: name of a descriptor → what it was given as."""
    if entry.target in held:
        return held[entry.target]
    for grant in grants:
        if entry.target.startswith(_BY_KIND.get(grant.kind, ())) and grant.kind in _BY_KIND:
            return f"grant {grant.name}"
    if entry.target in _RUNTIME:
        return _RUNTIME[entry.target]
    if entry.target.startswith("/memfd:"):
        return "runtime: anonymous memory"
    return ""
