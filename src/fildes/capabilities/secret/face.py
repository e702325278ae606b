"""The holder's side of a secret grant."""

from __future__ import annotations

import os


class Secret:
    """A value that an operator stored. It does not show itself in a traceback or a log by accident."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def value(self) -> bytes:
        parts = []
        at = 0
        while part := os.pread(self._fd, 65536, at):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def text(self) -> str:
        """The value as UTF-8, without the line end that an editor left. Raises UnicodeDecodeError."""
        return self.value().decode().rstrip("\r\n")

    def __repr__(self) -> str:
        return "<Secret>"
