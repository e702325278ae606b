"""`[grants.NAME] kind = "connect"`: a connected stream, to a service here or to a host outside.

to = "ledger"                a service, which must offer itself to this one: [offers] to = ["shop"]
to = "db.example.org:5432"   a host and a TCP port; the net driver resolves and connects
to = "[2001:db8::1]:5432"    an IPv6 address is written in brackets
private = true               the host may be this machine, or in a private network, if the owner's policy says so
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fildes.capabilities.kind import Kind

SERVICE: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_SIXES: Final = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]")


class Address(NamedTuple):
    host: str
    port: int


def service_of(to: str) -> str | None:
    """The service that `to` names, or None if it is an address."""
    return to if SERVICE.fullmatch(to) else None


def address_of(to: str) -> Address | None:
    """The host and port that `to` names, or None."""
    host, colon, port = to.rpartition(":")
    if not colon or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535 or len(host) > 253:
        return None
    six = _SIXES.fullmatch(host)
    if six:
        return Address(six[1], int(port))
    if host and all(_LABEL.fullmatch(label) for label in host.removesuffix(".").split(".")):
        return Address(host, int(port))
    return None


KIND: Final = Kind(
    name="connect",
    driver="bus",
    summary="a connection to another service, or to one host and port",
    revocation="the instance that holds it ends: a passed descriptor can't be recalled",
    options={
        "to": (str, True, 'a service, or "host:port"'),
        "private": (bool, False, "whether the host may be this machine, or one of a private network"),
        "connections": (int, False, "how many may be open at once to a host outside; 64 when left out"),
    },
)
