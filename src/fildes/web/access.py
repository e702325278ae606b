"""The door's part of the access log: what it answers itself. What an instance answers, the instance logs."""

from __future__ import annotations

import sys

from fildes.wire import access
from fildes.wire.http import Head


class About:
    """What a refused request was, as far as it is known."""

    __slots__ = ("peer", "request")

    def __init__(self, peer: bytes, head: Head | None = None) -> None:
        self.peer = peer.partition(b" ")[0]
        self.request = b""
        if head is not None:
            self.request = b"%b %b%b HTTP/%b" % (
                head.method.encode(), head.fields.authority, head.target, head.version.encode()
            )  # fmt: skip


def note(status: int, size: int, about: About | None) -> None:
    """To standard error, which the node's own output is."""
    line = access.line(about.peer if about else b"", about.request if about else b"", status, size, 0.0)
    sys.stderr.write(f"door: {line.decode('ascii')}\n")
    sys.stderr.flush()
