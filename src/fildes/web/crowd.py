"""How many connections each client has. Pure."""

from __future__ import annotations

from typing import Final

from fildes.web.proxies import crowd_key

DEFAULT: Final = 1024  # of one client, at one service, and unfinished at the door


class Crowd:
    """`limit` 0: nobody is counted."""

    __slots__ = ("_counts", "limit")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._counts: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def key(self, peer: bytes) -> bytes:
        """Who the connections of `peer` are counted for; b"" for nobody."""
        return crowd_key(peer) if self.limit else b""

    def enter(self, who: bytes) -> bool:
        """One more; False if that would be too many, and nothing is counted then."""
        if not who:
            return True
        count = self._counts.get(who, 0)
        if count >= self.limit:
            return False
        self._counts[who] = count + 1
        return True

    def leave(self, who: bytes) -> None:
        left = self._counts.get(who, 0) - 1
        if left > 0:
            self._counts[who] = left
        else:
            self._counts.pop(who, None)
