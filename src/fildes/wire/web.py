"""What is said to and by the door (web) and the static daemon.

Conveyors. A release's conveyor is made by the orchestrator, which deposits both its ends. The door gets the sending
end by event ``web.conveyor``, or asks ``orchestrator.conveyor`` when a connection comes for a release that it holds
none of; it deposits its copy too. A newer ``web.conveyor`` for the same release replaces the older end.

The static daemon's conveyor is made by the door, which keeps *both* ends: so nothing queued in it is lost when either
of the two is killed. static asks ``web.static_end`` when it starts without a deposit of its own.

Who may send what: orchestrator → web.conveyor, web.died, web.retired (events); catalogue → web.delta (event);
static → web.static_end; orchestrator, debug → web.counts; web → static.mixed (event).
"""

from __future__ import annotations

from msgspec import Struct


class Conveyor(Struct, frozen=True, forbid_unknown_fields=True):
    """Event web.conveyor + [sending end]. `service` is for error pages ("see: fildes logs SERVICE")."""

    release: str
    service: str = ""


class Died(Struct, frozen=True, forbid_unknown_fields=True):
    """Event web.died: an instance ended. Connections that it took and had not begun to answer get 502.

    `pid`: of the instance, in the daemons' PID namespace; 0: not known. The door learns by SCM_CREDENTIALS which pid
    took a connection; without a pid all of the release's taken and unbegun connections are given up.
    `reason`: for people ("killed by signal 9", "out of memory").
    """

    release: str
    instance: str = ""
    reason: str = ""
    pid: int = 0


class Retired(Struct, frozen=True, forbid_unknown_fields=True):
    """Event web.retired: no more connections are to be sent to this release; its instances may still hand back.

    With a `reason` ("guestbook failed 5 times in 30 s and was stopped") what it has not taken gets 503 at once.
    """

    release: str
    reason: str = ""


class StaticEnd(Struct, frozen=True, forbid_unknown_fields=True):
    """web.static_end → StaticEndGiven + [receiving end of the static daemon's conveyor].

    Asked at every start. `pid` is the asker's: what another process had taken and not answered is given up (502)."""

    pid: int = 0


class StaticEndGiven(Struct, frozen=True, forbid_unknown_fields=True):
    """`mixed`: see Mixed."""

    mixed: list[str] = []


class Mixed(Struct, frozen=True, forbid_unknown_fields=True):
    """Event static.mixed: the hosts that static services share with other runtimes by path. static, which knows of
    static services only, hands every later request of a connection to such a host back, for the door to route."""

    hosts: list[str] = []


class Probe(Struct, frozen=True, forbid_unknown_fields=True):
    """web.probe + [a stream that the orchestrator introduced to a candidate] → Probed: one GET, `seconds` at most."""

    host: str
    path: str
    seconds: float


class Probed(Struct, frozen=True, forbid_unknown_fields=True):
    """`status` 0: there was no answer. `text` says what there was, for people."""

    status: int
    text: str


class Counts(Struct, frozen=True, forbid_unknown_fields=True):
    """web.counts → CountsGiven. Since the door started."""


class Counted(Struct, frozen=True, forbid_unknown_fields=True):
    """`sent`: connections handed over; `refused`: answered 502 or 503; `returned`: handed back. Now: `waiting` for
    room in the conveyor's queue, `queued` in it and not yet taken, `open` in all: queued, or held by instances."""

    sent: int = 0
    refused: int = 0
    returned: int = 0
    waiting: int = 0
    queued: int = 0
    open: int = 0


class CountsGiven(Struct, frozen=True, forbid_unknown_fields=True):
    """By release id; "static" is the static daemon. `reading`: connections whose head is not complete;
    `relayed`: requests that the door relays now."""

    releases: dict[str, Counted] = {}
    accepted: int = 0
    reading: int = 0
    bad_requests: int = 0
    not_found: int = 0
    relayed: int = 0
