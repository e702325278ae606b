"""Which hosts and paths are this release's."""

from __future__ import annotations

from collections.abc import Iterable

from fildes.wire.http import under


class Places:
    """`places` are "host" or "host/prefix"; none at all means that everything is ours."""

    def __init__(self, places: Iterable[str]) -> None:
        self._prefixes: dict[str, list[str]] = {}
        for place in places:
            host, _, prefix = place.partition("/")
            self._prefixes.setdefault(host.lower(), []).append("/" + prefix.rstrip("/") if prefix else "")
        for prefixes in self._prefixes.values():
            prefixes.sort(key=len, reverse=True)
        # Hosts that are ours whole, with their root_path: no look at the path is needed.
        self.whole = {host: "" for host, prefixes in self._prefixes.items() if prefixes == [""]}

    @property
    def first(self) -> str:
        return next(iter(self._prefixes), "")

    def root(self, host: str, path: str) -> str | None:
        """The prefix of the route that a request belongs to, its root_path; None when it isn't ours."""
        for prefix in self._prefixes.get(host, ()):
            if under(path, prefix):
                return prefix
        return None if self._prefixes else ""
