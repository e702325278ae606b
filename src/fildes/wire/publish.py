"""What is said to the publish process and to the net driver's package-index proxy.

publish.publish   from debug     Publish → wire.catalogue.Published + nothing; fds: [tar of the folder]
publish.repack    from debug     Repack → wire.catalogue.Published
publish.lock      from debug     Lock → Lock; fds: [sealed memfd: requirements.lock of the current release], or none
publish.cancel    from debug     event Cancel: whoever asked is gone; the work stops, what it made is swept
debug.progress    to debug       event Progress, one a phase, from publish
net.index         from publish   Index → Index; fds: [listening TCP socket] → [lease]
"""

from __future__ import annotations

from typing import Final

import msgspec

# The phases in their order; those of the catalogue's answer (check, store, warm, switch) follow.
PHASES: Final = ("unpack", "manifest", "resolve", "bundle", "install", "pack")


class Publish(msgspec.Struct, forbid_unknown_fields=True):
    """`name`: for a folder without a manifest, and only then. `owner` was checked by debug.

    `ticket` is chosen by debug and comes back in every Progress. `upgrade`: look for newer versions instead of
    taking the lock made for the same requirements before. `lock`: a requirements.lock that came along and does not
    match is made again instead of refused. `folder`: what the folder is called, for words only.
    """

    ticket: str
    owner: str
    name: str | None = None
    upgrade: bool = False
    lock: bool = False
    folder: str = ""


class Repack(msgspec.Struct, forbid_unknown_fields=True):
    """The stored sources and lock of a release (None: the current one) become a new release, packed for this node's
    interpreter. `ticket` as in Publish."""

    ticket: str
    service: str
    release: str | None = None


class Lock(msgspec.Struct, forbid_unknown_fields=True):
    service: str


class Cancel(msgspec.Struct, forbid_unknown_fields=True):
    ticket: str


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """A phase ended; `ms` is what it took, wall time. `text` is for people.

    `ms` below 0: nothing ended. `phase` has begun, and `text` says what is waited for; with no `phase`, `text` is lines
    that a command of the release printed.
    """

    ticket: str
    phase: str
    text: str
    ms: float


class Index(msgspec.Struct, forbid_unknown_fields=True):
    """The net driver serves an HTTP proxy on the listening socket, to the hosts of the node's package indexes only.

    The socket was made in the resolver's own network namespace, which has nothing but its loopback: the descriptor
    is the way out of it. The lease is one end of a pair; when its other end closes, the proxy ends with all its
    connections.
    """


class Clean(msgspec.Struct, forbid_unknown_fields=True):
    """publish.clean → Cleaned. What can be fetched and made again goes: packages, wheels, what is installed of them."""


class Cleaned(msgspec.Struct, forbid_unknown_fields=True):
    """`size` in bytes."""

    size: int
