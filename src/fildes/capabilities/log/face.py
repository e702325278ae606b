"""The holder's side of the log: standard output and error are it, so `print` and `logging` just work."""

from __future__ import annotations

import os


class Log:
    """Lines straight into the pipe, past every buffer."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd

    def line(self, text: str) -> None:
        """One line; up to 4 KiB it stays whole among those of other writers (PIPE_BUF, pipe(7))."""
        data = text.replace("\n", "\n  ").encode(errors="backslashreplace") + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]
