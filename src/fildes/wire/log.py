"""What the log driver answers. Nobody sends log lines over the bus: a program writes into its pipe.

log.open     Open → Empty + [write end of a new pipe]     it lives until its last writer has closed it
log.append   Append → Empty; also as an event       a record of the system itself about a service
log.read     Read → Empty + [read end of a pipe]    the lines come as bytes; end of file when there are no more
log.forget   Forget → Empty                         the service was removed: its files go
"""

from __future__ import annotations

import msgspec


class Open(msgspec.Struct, forbid_unknown_fields=True):
    """`size`: bytes of the service's log that are kept; 0: as many as usual."""

    service: str
    release: str
    size: int = 0


class Append(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    text: str  # line ends make several records of it; at most 8 KiB a line are kept


class Read(msgspec.Struct, forbid_unknown_fields=True):
    """The last `lines` lines, oldest first; with `follow` what is written from then on, until the reader closes.
    `owner`: who reads, where that is no operator; an owner may have so many readers at once, and no more."""

    service: str
    lines: int = 200
    follow: bool = False
    known: bool = True  # False: perhaps nobody has that name; refused ("not-found") when there is no line of it
    owner: str | None = None


class Forget(msgspec.Struct, forbid_unknown_fields=True):
    service: str
