"""wsgi.input: the body of a request, read from the connection when the program asks for it, in the program's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator


class Empty:
    """Of a request without a body. There is one, for all: EMPTY."""

    __slots__ = ()

    def read(self, size: int | None = -1) -> bytes:
        return b""

    readline = read1 = read

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return []

    def readinto(self, buffer: bytearray | memoryview) -> int:
        return 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        """It stays as it is: it is everybody's."""


EMPTY = Empty()


class Input:
    """`more()` gives the next piece, and b"" at the end; what it raises goes to the program."""

    __slots__ = ("_at", "_held", "_more")

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more = more
        self._held = b""
        self._at = 0  # of `_held`, where what was not given yet begins

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, or all that come; fewer only at the end of the body."""
        pieces = [self._held[self._at :] if self._at else self._held]
        self._held, self._at = b"", 0
        if size is None or size < 0:
            while piece := self._more():
                pieces.append(piece)
            return b"".join(pieces)
        have = len(pieces[0])
        while have < size:
            piece = self._more()
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        self._held = data
        self._at = size
        return data[:size]

    def read1(self, size: int = -1) -> bytes:
        """What there is, `size` bytes at the most; waits only when there is nothing."""
        if self._at >= len(self._held):
            self._held, self._at = self._more(), 0
        end = len(self._held) if size < 0 else min(len(self._held), self._at + size)
        data = self._held[self._at : end]
        self._at = end
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:
        data = self.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1) -> bytes:
        limit = -1 if size is None else size
        pieces: list[bytes] = []
        have = 0
        while limit < 0 or have < limit:
            if self._at >= len(self._held):
                self._held, self._at = self._more(), 0
                if not self._held:
                    break
            end = self._held.find(b"\n", self._at) + 1
            stop = end or len(self._held)
            if limit >= 0 and stop - self._at > limit - have:
                stop, end = self._at + limit - have, 0
            pieces.append(self._held[self._at : stop])
            have += stop - self._at
            self._at = stop
            if end:
                break
        return b"".join(pieces)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        lines = []
        total = 0
        while line := self.readline():
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def close(self) -> None:
        """The rest of the body is the server's to drop."""
