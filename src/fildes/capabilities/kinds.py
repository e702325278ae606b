"""All kinds there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from fildes.capabilities.clock.grant import KIND as CLOCK
from fildes.capabilities.connect.grant import KIND as CONNECT
from fildes.capabilities.connect.grant import service_of
from fildes.capabilities.files.grant import KIND as FILES
from fildes.capabilities.kind import Kind
from fildes.capabilities.log.grant import KIND as LOG
from fildes.capabilities.random.grant import KIND as RANDOM
from fildes.capabilities.secret.grant import KIND as SECRET
from fildes.capabilities.sqlite.grant import KIND as SQLITE
from fildes.capabilities.sqlite.grant import path_of

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {kind.name: kind for kind in (CLOCK, RANDOM, SECRET, CONNECT, FILES, SQLITE, LOG)}
)
# Those that a manifest may name.
DECLARED: Final[Mapping[str, Kind]] = MappingProxyType({n: k for n, k in KINDS.items() if not k.internal})


def driver_of(kind: str, to: str | None) -> str:
    """Which daemon opens it: "bus" for an introduction, "" if nothing is opened. KeyError: no such kind."""
    if kind == CONNECT.name and to is not None and service_of(to) is None:
        return "net"
    return KINDS[kind].driver


def together(grants: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """What is wrong with grants (name, kind, options) beside each other: (name, a sentence)."""
    kinds = {kind for _, kind, _ in grants}
    found: list[tuple[str, str]] = []
    places: dict[str, str] = {}
    for name, kind, options in grants:
        if kind == SQLITE.name and FILES.name in kinds:
            # Files are then the kernel's, and the trap, which finds a database under its path, is not asked.
            text = "a database can't stand beside a grant of kind files; keep its file in the tree of that grant's path"
            found.append((name, text))
        path = path_of(name, options) if kind == SQLITE.name else options.get("path") if kind == FILES.name else None
        for other, taken in places.items():
            if isinstance(path, str) and (f"{path}/".startswith(f"{taken}/") or f"{taken}/".startswith(f"{path}/")):
                found.append((name, f"its path {path} and that of the grant {other} lie in each other"))
        if isinstance(path, str):
            places[name] = path
    return found
