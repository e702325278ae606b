"""What init must know to go on after execve: written by the old image, read by the new one, sealed in between.

JSON, because the two may be of different versions: unknown words are passed over, missing ones have a default.
The keeper writes the first one, so that the first start and an upgrade are one way in.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

FORMAT: Final = 1


class Kept(NamedTuple):
    """A deposit: descriptors by number."""

    serial: int
    key: bytes
    blob: bytes
    fds: list[int]


class Unsent(NamedTuple):
    """What waits for room in a daemon's store channel: a frame, or an answer ("page", "listing") to be gone on with."""

    kind: str
    frame: bytes = b""
    nonce: int = 0
    after: int = 0
    left: int = 0


class Line(NamedTuple):
    """One daemon. Pairs are (init's end, the end that the daemon inherits)."""

    store: tuple[int, int]
    bus: tuple[int, int]
    pid: int = 0
    started: float = 0.0  # CLOCK_MONOTONIC
    ready: bool = False
    restarts: int = 0
    ends: tuple[float, ...] = ()
    pause: float = 0.0
    deposits: tuple[Kept, ...] = ()
    outbox: tuple[Unsent, ...] = ()


class Ledger(NamedTuple):
    table: str  # "module:attribute"
    path: list[str]  # sys.path: the interpreter is started without site
    settings: dict[str, Any]  # what daemons are told; see daemon.start.Inheritance
    uid_base: int | None  # None: everything under one uid
    fds: dict[str, int]  # lifeline, lock, state (a directory), http0 …, control, dir.<daemon>
    cgroup: str | None  # the node's, by name
    served: bool = False  # every daemon has been ready once
    rolling: bool = False  # after an upgrade: replace the daemons one by one
    daemons: dict[str, Line] = {}  # noqa: RUF012 (a NamedTuple's default; never changed)

    def numbers(self) -> set[int]:
        """Every descriptor that it mentions."""
        numbers = set(self.fds.values())
        for line in self.daemons.values():
            numbers.update(line.store, line.bus)
            for kept in line.deposits:
                numbers.update(kept.fds)
        return numbers


def encode(ledger: Ledger) -> bytes:
    words = ledger._asdict() | {"format": FORMAT}
    words["daemons"] = {
        name: line._asdict()
        | {
            "deposits": [(d.serial, d.key.decode("latin-1"), d.blob.decode("latin-1"), d.fds) for d in line.deposits],
            "outbox": [(u.kind, u.frame.decode("latin-1"), *u[2:]) for u in line.outbox],
        }
        for name, line in ledger.daemons.items()
    }
    return json.dumps(words).encode()


def decode(data: bytes) -> Ledger:
    """Raises ValueError if it is of a format that this version does not know."""
    words: dict[str, Any] = json.loads(data)
    if words.get("format") != FORMAT:
        raise ValueError(f"init's ledger has format {words.get('format')!r}; this version knows {FORMAT}")
    ledger = Ledger(**{k: v for k, v in words.items() if k in Ledger._fields})
    return ledger._replace(daemons={name: _line(line) for name, line in words["daemons"].items()})


def _line(words: dict[str, Any]) -> Line:
    words = {k: v for k, v in words.items() if k in Line._fields}
    for name in ("store", "bus", "ends"):
        words[name] = tuple(words.get(name, ()))
    words["deposits"] = tuple(
        Kept(serial, key.encode("latin-1"), blob.encode("latin-1"), fds)
        for serial, key, blob, fds in words.get("deposits", ())
    )
    words["outbox"] = tuple(
        Unsent(kind, frame.encode("latin-1"), *rest) for kind, frame, *rest in words.get("outbox", ())
    )
    return Line(**words)
