"""What one daemon keeps in the fd store. Owns the descriptors; knows nothing of sockets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from fildes.kernel.fds import Fd, close_all


class Entry(NamedTuple):
    serial: int  # of the first deposit under this key: a replacement keeps its place
    key: bytes
    blob: bytes
    fds: list[Fd]


class Deposits:
    """At most `entries` keys and `fds` descriptors in all."""

    def __init__(self, entries: int, fds: int) -> None:
        self.max_entries, self.max_fds = entries, fds
        self.held = 0  # descriptors
        self._by_key: dict[bytes, Entry] = {}
        self._serial = 0
        self._in_order: list[Entry] | None = None

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._by_key.values())

    def put(self, key: bytes, blob: bytes, fds: list[Fd], *, serial: int = 0) -> str | None:
        """Consume `fds`: keep them, in place of what was under `key`; or close them and return why not.

        `serial` is for one that comes from an earlier image of init.
        """
        old = self._by_key.get(key)
        held = self.held - (len(old.fds) if old else 0) + len(fds)
        if old is None and len(self._by_key) >= self.max_entries:
            close_all(fds)
            return f"its {self.max_entries} deposits are all in use: drop one first"
        if held > self.max_fds:
            close_all(fds)
            return f"it may deposit {self.max_fds} descriptors in all: drop some first"
        if old is None:
            self._serial = serial or self._serial + 1
        self._by_key[key] = Entry(old.serial if old else self._serial, key, blob, fds)
        self._in_order = None
        self.held = held
        if old:
            close_all(old.fds)
        return None

    def drop(self, key: bytes) -> None:
        entry = self._by_key.pop(key, None)
        if entry is not None:
            self._in_order = None
            self.held -= len(entry.fds)
            close_all(entry.fds)

    def page(self, after: int, size: int) -> tuple[list[Entry], bool]:
        """The first `size` entries whose serial is above `after`, in order, and whether there are more."""
        if self._in_order is None:
            self._in_order = list(self._by_key.values())  # a dict keeps the order, and a replaced key its place
        first = bisect_right(self._in_order, after, key=attrgetter("serial"))
        return self._in_order[first : first + size], len(self._in_order) > first + size

    def close(self) -> None:
        for entry in self._by_key.values():
            close_all(entry.fds)
        self._by_key.clear()
        self._in_order = None
        self.held = 0
