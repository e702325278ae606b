"""One pipe of a program, from which whole lines are taken into its log.

Bytes are copied out by tee(2), written, and only then consumed: a driver that is killed in between loses nothing, at
worst it writes some lines a second time. What is not yet a line stays in the pipe, which init holds too.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

from fildes.drivers.log.lines import complete
from fildes.kernel.fds import Fd, set_blocking
from fildes.kernel.loop import EPOLLHUP, EPOLLIN, Loop
from fildes.kernel.pipes import pipe, tee

_CHUNK: Final = 65536  # bytes at a turn of the loop, so that others have theirs
_RATE: Final = 4 << 20  # bytes a second, in the long run: beyond, the program waits for its own output
_BURST: Final = 4 << 20


class Copier:
    """The pipe that `tee` copies into; empty between calls, one for all sources."""

    def __init__(self) -> None:
        self._reader, self._writer = pipe(_CHUNK)

    def look(self, source: int) -> bytes:
        """What is in `source`, left there. Raises BlockingIOError when there is nothing; b"" is the end."""
        size = tee(source, self._writer.fileno(), _CHUNK)
        parts = []
        while size:
            parts.append(os.read(self._reader.fileno(), size))
            size -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class Source:
    """Owns `fd`, the read end. `on_lines(data)` writes, and returns what that cost in bytes; `on_end()` comes once,
    when the last writer has closed."""

    def __init__(
        self,
        loop: Loop,
        fd: Fd,
        copier: Copier,
        *,
        on_lines: Callable[[bytes], int],
        on_end: Callable[[], object],
    ) -> None:
        self._loop, self._fd, self._copier = loop, fd, copier
        self._on_lines, self._on_end = on_lines, on_end
        self._left, self._at = float(_BURST), loop.time()
        self._again = False
        self._ended = False
        set_blocking(fd.fileno(), False)
        # Edge-triggered: an unfinished line stays in the pipe, and must not wake us until more comes.
        loop.watch(fd.fileno(), EPOLLIN | select.EPOLLET, self._on_events)

    def close(self) -> None:
        if not self._fd.closed:
            self._loop.unwatch(self._fd.fileno())
            self._fd.close()

    def _on_events(self, events: int) -> None:
        self._ended = self._ended or bool(events & EPOLLHUP)
        if not self._again:
            self._pump()

    def _pump(self) -> None:
        """Take what is there, a chunk at most."""
        self._again = False
        if self._fd.closed:
            return
        now = self._loop.time()
        self._left = min(_BURST, self._left + (now - self._at) * _RATE)
        self._at = now
        if self._left <= 0:
            self._again = True
            self._loop.call_later(-self._left / _RATE + 0.05, self._pump)
            return
        try:
            data = self._copier.look(self._fd.fileno())
        except BlockingIOError:
            return
        size = complete(data, ended=self._ended)
        if size:
            self._left -= self._on_lines(data[:size])
            self._consume(size)
            self._again = True
            self._loop.call_soon(self._pump)
        elif not data:
            self.close()
            self._on_end()

    def _consume(self, size: int) -> None:
        while size:
            size -= len(os.read(self._fd.fileno(), size))
