"""How many connections a grant has open, though their descriptors were given away.

The driver keeps no duplicate: with one, a connection that its holder closed would stay open. It keeps the sockets'
inode numbers instead, and asks the kernel which of them still are connections, only when a grant reaches its cap
(/proc/net/tcp, tcp6: proc_pid_net(5); opened once at the start, read again from the beginning each time).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

from fildes.kernel.fds import Fd

CAP: Final = 64  # connections open at once per grant of a release, unless the grant says otherwise

Key = tuple[str, str]  # release, name of the grant


class Census:
    def __init__(self, living: Callable[[], set[int]]) -> None:
        self._living = living
        self._given: dict[Key, set[int]] = {}
        self._opening: dict[Key, int] = {}

    def begin(self, key: Key, cap: int) -> bool:
        """Count one more being opened; False if the grant has `cap` of them."""
        opening = self._opening.get(key, 0)
        given = self._given.get(key, set())
        if len(given) + opening >= cap:
            given &= self._living()
            if len(given) + opening >= cap:
                return False
        self._opening[key] = opening + 1
        return True

    def end(self, key: Key, inode: int | None) -> None:
        """What was being opened is open as the socket `inode`, or failed (None)."""
        self._opening[key] -= 1
        if not self._opening[key]:
            del self._opening[key]
        if inode is not None:
            self._given.setdefault(key, set()).add(inode)
        if len(self._given) > 1024:  # releases come and go: forget those that hold nothing
            living = self._living()
            self._given = {key: left for key, held in self._given.items() if (left := held & living)}


class Tables:
    """The kernel's TCP tables of the network namespace in which this was made."""

    def __init__(self) -> None:
        self._files: list[Fd] = []
        for name in ("tcp", "tcp6"):
            try:
                self._files.append(Fd.open(f"/proc/self/net/{name}", os.O_RDONLY))
            except FileNotFoundError:  # a kernel without IPv6
                continue

    def close(self) -> None:
        for file in self._files:
            file.close()

    def living(self) -> set[int]:
        found: set[int] = set()
        for file in self._files:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            parts = []
            while part := os.read(file.fileno(), 1 << 16):
                parts.append(part)
            found |= set(inodes(b"".join(parts).decode("ascii", "replace").splitlines()[1:]))
        return found


def inodes(lines: Iterable[str]) -> Iterable[int]:
    """The inode column of /proc/net/tcp's lines; 0 (a socket nobody holds any more) is left out."""
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[9] != "0":
            yield int(fields[9])
