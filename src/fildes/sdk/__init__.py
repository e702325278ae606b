"""What a program under Fildes imports to find its capabilities. Programs that know nothing of it run all the same.

    from fildes import sdk

    sdk.grants()                       # what the manifest granted: (Grant(name, kind, to), …)
    sdk.clock().time()                 # [grants.clock]
    sdk.random(16)                     # [grants.random]
    sdk.secret("api-key").text()       # [grants.api-key]  kind = "secret"
    sdk.connect("ledger")              # [grants.ledger]   kind = "connect", to = "ledger": a connected socket
    sdk.open("db")                     # [grants.db]       kind = "sqlite": a sqlite3.Connection
    sdk.open("ledger")                 # any of them, by name
    sdk.http("ledger").request(...)    # an http.client.HTTPConnection over such a socket

and in coroutines, where nothing may block:

    await sdk.aio.open("ledger"), await sdk.aio.connect("ledger"), await sdk.aio.streams("ledger")
    await sdk.fetch("ledger", "/balance")

What was not granted raises Denied, whose text ends with the lines of fildes.toml that would grant it. All this works
in an instance, from its start-up (lifespan) on: while the program is loaded, nothing has been granted yet.
"""

from __future__ import annotations

import socket as _socket
from collections.abc import Mapping as _Mapping
from typing import TYPE_CHECKING
from typing import TypeVar as _TypeVar

from fildes.capabilities.clock.face import Clock
from fildes.capabilities.random.face import Random
from fildes.capabilities.secret.face import Secret
from fildes.sdk import aio
from fildes.sdk.errors import Denied, FildesError, Unavailable
from fildes.sdk.function import BadRequest, File, Request, Response
from fildes.sdk.program import Face, Grant, bind, current

if TYPE_CHECKING:
    from http.client import HTTPConnection

    from fildes.sdk.client import Response as Answer
    from fildes.sdk.service import Caps as Caps

__all__ = [
    "BadRequest",
    "Clock",
    "Denied",
    "Face",
    "FildesError",
    "File",
    "Grant",
    "Random",
    "Request",
    "Response",
    "Secret",
    "Unavailable",
    "aio",
    "clock",
    "connect",
    "fetch",
    "grants",
    "http",
    "open",
    "random",
    "secret",
]

_bind = bind
_T = _TypeVar("_T")


def open(name: str) -> Face:
    """What was granted under `name`: a Clock, Random, Secret, sqlite3.Connection, or a connected socket. May block for
    a round trip."""
    return current().open(name)


def grants() -> tuple[Grant, ...]:
    """What the manifest grants to this program."""
    return current().grants()


def clock(name: str | None = None) -> Clock:
    """The clock grant; `name` where there are several or it has a name of its own."""
    return _of_kind(Clock, name or current().only("clock"))


def random(count: int, name: str | None = None) -> bytes:
    """`count` random bytes from the random grant. `sdk.open("random")` gives numbers and tokens too."""
    return _of_kind(Random, name or current().only("random")).bytes(count)


def secret(name: str) -> bytes:
    """The value of the secret granted under `name`. `sdk.open(name).text()` has it as text."""
    return _of_kind(Secret, name).value()


def connect(name: str) -> _socket.socket:
    """A new connection by the connect grant `name`: a blocking stream socket, already connected."""
    return _of_kind(_socket.socket, name)


def http(name: str, *, timeout: float | None = 30.0) -> HTTPConnection:
    """An http.client.HTTPConnection over the connect grant `name`. It blocks: in coroutines use `fetch`."""
    from fildes.sdk.client import http

    return http(name, timeout=timeout)


async def fetch(
    name: str, path: str, *, method: str = "GET", body: bytes = b"", headers: _Mapping[str, str] | None = None
) -> Answer:
    """One HTTP request by the connect grant `name` over a connection of its own; answers of up to 16 MiB."""
    from fildes.sdk.client import fetch

    return await fetch(name, path, method=method, body=body, headers=headers)


def _of_kind(kind: type[_T], name: str) -> _T:
    face = current().open(name)
    if not isinstance(face, kind):
        raise Unavailable(f"the grant {name!r} is a {type(face).__name__.lower()}, not a {kind.__name__.lower()}")
    return face
