"""What an instance holds: its descriptors, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Kit:
    """The descriptors of one instance. All numbers are owned by the instance for as long as it lives.

    conveyor  SOCK_SEQPACKET: connections come in here (`wire.conveyor`); shared with the release's other instances
    handle    SOCK_SEQPACKET to the orchestrator, a letter a message; see below
    channel   SOCK_SEQPACKET to the bus
    packs     the release's pack, then the base pack
    grants    descriptors by the grant's name: clock [timerfd, memfd], random [fd], secret [memfd], …
    settings  what `load` was given too: service, release, entry, hosts, env, grants, idle, paths,
              and of the limits concurrency, tasks, body (bytes), timeout (s); stays (bool, see below), health

    On the handle an instance says
    b"U"  it is up: said once, by the zygote's fork
    b"R"  it is ready, and has taken what it was started for
    b"F"  it is full: it leaves what comes in the conveyor, to other instances or until it has room
    b"O"  it is open again. Both are said late (`runtime.fullness`): words that a busy moment takes back cost nothing
    b"I"  it ends, because nobody was there for `idle` seconds
    b"Z"  nobody was there for `idle` seconds, and it goes on: where settings say that it `stays`
    and hears
    b"D"  finish what runs, take nothing more, end
    b"?"  say b"F" or b"O": a new orchestrator asks
    """

    conveyor: int
    handle: int
    channel: int
    packs: list[int] = field(default_factory=list)
    grants: dict[str, list[int]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[int]:
        """The descriptors of the first grant of this kind; none when there is no such grant, or it isn't open yet."""
        for grant in self.settings.get("grants", ()):
            if grant.get("kind") == kind and grant["name"] in self.grants:
                return self.grants[grant["name"]]
        return []
