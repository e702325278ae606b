"""Which release a request is for: a pure, immutable table, by Host and then by longest path prefix.

Host comes from wire.http, which refuses what is none and strips port and final dot. Paths are compared decoded and at
whole segments, exactly as the instance compares them (wire.http.under), so that the two never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fildes.wire.catalogue import Route
from fildes.wire.http import under


class Match(NamedTuple):
    route: Route
    # Other routes of this host lie under another prefix: an instance sees later requests that may not be its own.
    mixed: bool = False
    # … and belong to another owner: no instance may own a connection to this host.
    shared: bool = False


class Table:
    """The routes of one snapshot of the catalogue; `with_delta` makes the next one."""

    def __init__(self, number: int, routes: Iterable[Route] = ()) -> None:
        self.number = number
        # By host, longest prefix first.
        self._hosts: dict[str, tuple[tuple[str, Match], ...]] = {}
        grouped: dict[str, dict[str, Route]] = {}
        for route in routes:
            grouped.setdefault(route.host, {})[route.prefix.rstrip("/")] = route
        for host, prefixes in grouped.items():
            self._hosts[host] = _matches(prefixes)

    def __len__(self) -> int:
        return len(self._hosts)

    def routes(self) -> list[Route]:
        return [match.route for matches in self._hosts.values() for _, match in matches]

    def with_delta(self, number: int, put: Iterable[Route], gone: Iterable[str]) -> Table:
        """A new table: without the routes of the releases `gone`, then with `put`, which replace their equals."""
        table = Table(number)
        table._hosts = dict(self._hosts)
        releases = frozenset(gone)
        touched: dict[str, dict[str, Route]] = {}
        for host, matches in self._hosts.items():
            if any(match.route.release in releases for _, match in matches):
                touched[host] = {p: match.route for p, match in matches if match.route.release not in releases}
        for route in put:
            if route.host not in touched:
                touched[route.host] = {p: match.route for p, match in self._hosts.get(route.host, ())}
            touched[route.host][route.prefix.rstrip("/")] = route
        for host, left in touched.items():
            if left:
                table._hosts[host] = _matches(left)
            else:
                table._hosts.pop(host, None)
        return table

    def knows(self, host: str) -> bool:
        return host in self._hosts

    def find(self, host: str, path: str) -> Match | None:
        """The route with the longest prefix of the decoded `path`."""
        for prefix, match in self._hosts.get(host, ()):
            if not prefix or under(path, prefix):
                return match
        return None

    def mixed_static_hosts(self) -> list[str]:
        """Hosts at which static services live beside others: see wire.web.Mixed."""
        return sorted(
            host
            for host, matches in self._hosts.items()
            if len(matches) > 1 and "static" in (runtimes := {m.route.runtime for _, m in matches})
            if len(runtimes) > 1 or matches[0][1].shared
        )


def _matches(prefixes: dict[str, Route]) -> tuple[tuple[str, Match], ...]:
    mixed = len({route.release for route in prefixes.values()}) > 1
    shared = len({route.owner for route in prefixes.values()}) > 1
    longest_first = sorted(prefixes.items(), key=lambda item: (-len(item[0]), item[0]))
    return tuple((prefix, Match(route, mixed, shared)) for prefix, route in longest_first)
