"""The holder's side of a random grant."""

from __future__ import annotations

import os


class Random:
    """Numbers fit for keys, read from the kernel's device (random(4))."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def bytes(self, count: int) -> bytes:
        """`count` random bytes. Raises ValueError if it is negative."""
        if count < 0:
            raise ValueError(f"{count} bytes of randomness cannot be read")
        parts = []
        while count > 0:
            part = os.read(self._fd, count)
            if not part:
                raise OSError("the random device was read to its end: it is not the random device")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def below(self, limit: int) -> int:
        """A whole number of 0 … limit−1, all equally likely. Raises ValueError unless `limit` is positive."""
        if limit <= 0:
            raise ValueError(f"there is no number from 0 up to but not including {limit}")
        bits = (limit - 1).bit_length()
        size = (bits + 7) // 8
        while True:  # on average less than twice
            number = int.from_bytes(self.bytes(size), "little") & ((1 << bits) - 1)
            if number < limit:
                return number

    def token(self, count: int = 16) -> str:
        """`count` random bytes as hexadecimal digits: for identifiers and cookies."""
        return self.bytes(count).hex()
