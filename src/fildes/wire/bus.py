"""What the bus itself answers: to the orchestrator and to the operator's door. A tenant's verbs are in wire/tenant.py.

bus.channel   from orchestrator   Channel → Empty + [the instance's end, SOCK_SEQPACKET]
bus.close     from orchestrator   Close → Empty       every channel of that release ends at once
bus.denials   from debug          AskDenials → Denials   what was refused lately, newest last
bus.status    from debug          Empty → Status      what the bus holds
bus.undeliverable   event to its sender   Undeliverable   an event was not delivered: nothing is dropped in silence
"""

from __future__ import annotations

import msgspec

from fildes.wire.catalogue import Grant


class Channel(msgspec.Struct, forbid_unknown_fields=True):
    """`grants`: of a release that is not current, a candidate being warmed, whose rights the catalogue has not told."""

    release: str
    instance: str | int
    service: str
    grants: list[Grant] | None = None


class Close(msgspec.Struct, forbid_unknown_fields=True):
    release: str


class AskDenials(msgspec.Struct, forbid_unknown_fields=True):
    service: str | None = None  # None: of all


class Denial(msgspec.Struct, forbid_unknown_fields=True):
    """`when`: wall time, seconds since the epoch; `grant`: the lines of a manifest that would have allowed it."""

    when: float
    service: str
    release: str
    instance: str
    asked: str
    code: str
    text: str
    grant: str | None = None


class Denials(msgspec.Struct, forbid_unknown_fields=True):
    denials: list[Denial]


class Status(msgspec.Struct, forbid_unknown_fields=True):
    epoch: int
    snapshot: int  # number of the catalogue's last change seen; −1: none yet
    channels: int  # of tenants
    pending: int  # requests waiting for an answer
    conveyors: int  # sending ends held for introductions
    introductions: int  # made since the start
    refusals: int


class Undeliverable(msgspec.Struct, forbid_unknown_fields=True):
    verb: str
    to: str
    text: str
