"""Which release a request is for: a pure, immutable table, by Host and then by longest path prefix.

Host: case doesn't matter, a port and one trailing dot are stripped (RFC 9110 §4.2.3, §7.2). Names are compared as they
travel: ASCII, internationalised ones as `xn--…`; bytes beyond ASCII are refused, as is all that is no host.
Path: compared after percent-decoding and removal of dot segments (RFC 3986 §6.2.2), so that no other spelling
of a path reaches the owner of a shorter prefix. What is passed on is what the client wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from fildes.wire.catalogue import Route

_NAME: Final = re.compile(rb"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z")
_V6: Final = re.compile(rb"\[[0-9a-f:.]{2,45}\]\Z")
_PORT: Final = re.compile(rb"[0-9]{0,5}\Z")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class BadRequest(ValueError):
    """The Host or the path is none; the sentence goes to the client."""


class Match(NamedTuple):
    route: Route
    # Prefixes of this host belong to several owners: no instance may own a connection to it.
    shared: bool


@lru_cache(maxsize=4096)
def normalise_host(raw: bytes) -> str:
    """`Example.ORG.:8080` → `example.org`; an IPv6 literal keeps its brackets. Raises BadRequest."""
    host = raw.lower()
    if host.startswith(b"["):
        name, bracket, rest = host.partition(b"]")
        name += bracket
        if not _V6.match(name) or (rest and not rest.startswith(b":")):
            raise BadRequest("the Host header is not a host name")
        port = rest[1:]
    else:
        name, _, port = host.partition(b":")
        if name.endswith(b"."):
            name = name[:-1]
        if len(name) > 253 or not _NAME.match(name):
            raise BadRequest("the Host header is not a host name")
    if not _PORT.match(port) or (port and int(port) > 65535):
        raise BadRequest("the Host header's port is not a port")
    return name.decode("ascii")


def normalise_path(target: bytes) -> bytes:
    """The path of an origin-form target as prefixes are compared with: decoded, without dot segments and query."""
    path = target.partition(b"?")[0]
    if b"%" not in path and b"/." not in path and b"//" not in path:
        return path
    if _BAD_ESCAPE.search(path):
        raise BadRequest("a % in the path is not followed by two hexadecimal digits")
    kept: list[bytes] = []
    # Empty segments are dropped too: programs differ over `//`, and what they might take for one slash is one here.
    segments = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), path).split(b"/")
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    trailing = b"/" if segments[-1] in (b"", b".", b"..") and kept else b""
    return b"/" + b"/".join(kept) + trailing


class Table:
    """The routes of one snapshot of the catalogue; `with_delta` makes the next one."""

    def __init__(self, number: int, routes: Iterable[Route]) -> None:
        self.number = number
        self._hosts: dict[str, tuple[bool, tuple[tuple[bytes, Route], ...]]] = {}
        grouped: dict[str, dict[str, Route]] = {}
        for route in routes:
            grouped.setdefault(route.host, {})[route.prefix.rstrip("/")] = route
        for host, prefixes in grouped.items():
            self._hosts[host] = _sorted(prefixes)

    def __len__(self) -> int:
        return len(self._hosts)

    def routes(self) -> list[Route]:
        return [route for _, prefixes in self._hosts.values() for _, route in prefixes]

    def with_delta(self, number: int, put: Iterable[Route], gone: Iterable[str]) -> Table:
        """A new table: without the routes of the releases `gone`, then with `put`, which replace their equals."""
        table = Table(number, ())
        table._hosts = dict(self._hosts)
        releases = frozenset(gone)
        touched: dict[str, dict[str, Route]] = {}
        for host, (_, prefixes) in self._hosts.items():
            if any(route.release in releases for _, route in prefixes):
                touched[host] = {
                    prefix.decode(): route for prefix, route in prefixes if route.release not in releases
                }
        for route in put:
            if route.host not in touched:
                _, prefixes = self._hosts.get(route.host, (False, ()))
                touched[route.host] = {prefix.decode(): other for prefix, other in prefixes}
            touched[route.host][route.prefix.rstrip("/")] = route
        for host, left in touched.items():
            if left:
                table._hosts[host] = _sorted(left)
            else:
                table._hosts.pop(host, None)
        return table

    def knows(self, host: str) -> bool:
        return host in self._hosts

    def find(self, host: str, target: bytes) -> Match | None:
        """The route with the longest prefix. `host` is normalised; `target` as the client wrote it. Raises BadRequest."""
        entry = self._hosts.get(host)
        if entry is None:
            return None
        shared, prefixes = entry
        path = b""
        for prefix, route in prefixes:
            if not prefix:
                return Match(route, shared)
            path = path or normalise_path(target)
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/"):
                return Match(route, shared)
        return None


def _sorted(prefixes: dict[str, Route]) -> tuple[bool, tuple[tuple[bytes, Route], ...]]:
    longest_first = sorted(prefixes.items(), key=lambda item: (-len(item[0]), item[0]))
    owners = {route.owner for route in prefixes.values()}
    return len(owners) > 1, tuple((prefix.encode(), route) for prefix, route in longest_first)
