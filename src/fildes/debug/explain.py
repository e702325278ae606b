"""Why a process holds each of its descriptors. Pure: the kernel's table in, a reason for each entry out.

What was given is matched by the descriptor's own name, as the kernel shows it: the inode of a socket or pipe, the
path of a file or of a directory above it. What reaches nothing outside of the process needs no giver. What neither
explains has no reason, and is shown so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from fildes.wire.drivers import FdEntry

_INSIDE: Final = {
    "/dev/null": "nothing",
    "anon_inode:[eventpoll]": "its own: event loop",
    "anon_inode:[eventfd]": "its own: wakes the event loop",
}


def reasons(entries: Sequence[FdEntry], given: Mapping[str, str]) -> list[str]:
    """One for each entry, "" where there is none. `given`: name of a descriptor → as what it was given."""
    pipes: dict[str, set[int]] = {}
    for entry in entries:
        if entry.kind == "pipe":
            pipes.setdefault(entry.target, set()).add(entry.flags & os.O_ACCMODE)
    return [_reason(entry, given, pipes) for entry in entries]


def _reason(entry: FdEntry, given: Mapping[str, str], pipes: Mapping[str, set[int]]) -> str:
    if entry.target in given:
        return given[entry.target]
    if entry.kind in ("file", "directory"):  # a name with a slash behind is of all that lies below it
        for name, why in given.items():
            if name.endswith("/") and f"{entry.target}/".startswith(name):
                return why
    if entry.target in _INSIDE:
        return _INSIDE[entry.target]
    if entry.kind == "memfd":
        return "its own: anonymous memory"
    if {os.O_RDONLY, os.O_WRONLY} <= pipes.get(entry.target, set()):
        return "its own: both ends of this pipe are here"
    return ""
