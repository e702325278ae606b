"""What a command of a publish prints: into the release's log, to whoever publishes, and its end is remembered.

The bytes are a tenant's. They are copied as they are into the log's pipe, whose driver knows what to do with them; what
is shown is cut into lines, without what steers a terminal. A flood waits: it is read at a bounded pace.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from typing import Final

from fildes.kernel.fds import Fd, set_blocking
from fildes.kernel.loop import EPOLLIN, Loop, Promise

_PIECE: Final = 16 * 1024
_PAUSE: Final = 0.01  # seconds between two pieces: 1.6 MB/s
_TOLD_EVERY: Final = 0.1  # seconds
_SHOWN: Final = 40  # lines at once; what is more is in the log
_LAST: Final = 12  # lines that are remembered
_LONGEST: Final = 300  # letters of a line that are shown
_STEERING: Final = re.compile("\x1b\\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Tee:
    """Owns both. `tell(lines)` hears what is new, all of it in the end."""

    def __init__(self, loop: Loop, reader: Fd, log: Fd, tell: Callable[[list[str]], object]) -> None:
        self._loop, self._reader, self._log, self._tell = loop, reader, log, tell
        self.last: deque[str] = deque(maxlen=_LAST)
        self.over: Promise[None] = Promise(loop)
        self._fresh: list[str] = []
        self._part = b""
        self._unwritten = b""
        self._telling = False
        set_blocking(reader.fileno(), False)
        set_blocking(log.fileno(), False)
        loop.watch(reader.fileno(), EPOLLIN, self._readable)

    def _readable(self, _: int) -> None:
        self._loop.unwatch(self._reader.fileno())
        try:
            data = os.read(self._reader.fileno(), _PIECE)
        except BlockingIOError:
            self._loop.call_later(_PAUSE, self._go_on)
            return
        self._take(data)
        if data:
            self._unwritten = data
            self._write()
        else:
            self.close()

    def _write(self) -> None:
        """On, once the log has taken it: a driver that is just being replaced takes it a little later."""
        if self.over.done:
            return
        try:
            self._unwritten = self._unwritten[os.write(self._log.fileno(), self._unwritten) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unwritten = b""
        self._loop.call_later(_PAUSE, self._write if self._unwritten else self._go_on)

    def _go_on(self) -> None:
        if not self.over.done:
            self._loop.watch(self._reader.fileno(), EPOLLIN, self._readable)

    def _take(self, data: bytes) -> None:
        *whole, self._part = (self._part + data).split(b"\n")
        if not data and self._part:
            whole, self._part = [self._part], b""
        elif len(self._part) > _PIECE:
            whole, self._part = [*whole, self._part], b""
        lines = [shown(line) for line in whole]
        self.last.extend(lines)
        self._fresh += lines
        if len(self._fresh) > _SHOWN:
            more = len(self._fresh) - _SHOWN + 1
            self._fresh = [f"… {more} lines, in the log", *self._fresh[more:]]
        if self._fresh and not self._telling:
            self._telling = True
            self._loop.call_later(_TOLD_EVERY, self._tell_fresh)

    def _tell_fresh(self) -> None:
        self._telling = False
        fresh, self._fresh = self._fresh, []
        if fresh:
            self._tell(fresh)

    def close(self) -> None:
        """Nothing more is read."""
        if not self.over.done:
            self._loop.unwatch(self._reader.fileno())
            self._reader.close()
            self._log.close()
            self._tell_fresh()
            self.over.resolve(None)


def shown(line: bytes) -> str:
    """A line as a person may see it. Pure."""
    text = _STEERING.sub("", line.decode("utf-8", "replace").rstrip("\r"))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
