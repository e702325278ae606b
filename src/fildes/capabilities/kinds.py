"""All kinds there are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fildes.capabilities.clock.grant import KIND as CLOCK
from fildes.capabilities.connect.grant import KIND as CONNECT
from fildes.capabilities.connect.grant import service_of
from fildes.capabilities.files.grant import KIND as FILES
from fildes.capabilities.kind import Kind
from fildes.capabilities.log.grant import KIND as LOG
from fildes.capabilities.random.grant import KIND as RANDOM
from fildes.capabilities.secret.grant import KIND as SECRET
from fildes.capabilities.sqlite.grant import KIND as SQLITE

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
