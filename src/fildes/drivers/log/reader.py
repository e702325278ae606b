"""Somebody who reads a log: the lines go into a pipe as fast as it takes them, straight from the files.

Nothing is kept in memory for a reader who is slow: it has a place in the files, and when that was deleted, a gap.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from fildes.drivers.log.files import Files, Place
from fildes.kernel.fds import Fd, set_blocking
from fildes.kernel.loop import EPOLLERR, EPOLLOUT, Loop

_CHUNK: Final = 65536
_GAP: Final = b"(lines were deleted before they could be shown: the log is written faster than it is read)\n"


class Reader:
    """Owns `pipe`, its write end. `until` None: follow what is written later. `on_moved(place)` after every write;
    `on_end()` comes once, when all was said or nobody reads any more."""

    def __init__(
        self,
        loop: Loop,
        files: Files,
        service: str,
        owner: str | None,
        pipe: Fd,
        start: Place,
        until: Place | None,
        *,
        on_moved: Callable[[Place], object],
        on_end: Callable[[], object],
    ) -> None:
        self.service, self.owner = service, owner
        self._loop, self._files, self._pipe = loop, files, pipe
        self._place, self._until = start, until
        self._on_moved, self._on_end = on_moved, on_end
        self._segment: tuple[int, Fd] | None = None
        self._note = b""
        set_blocking(pipe.fileno(), False)
        loop.watch(pipe.fileno(), EPOLLOUT, self._on_events)

    def wake(self) -> None:
        """There may be more."""
        if not self._pipe.closed:
            self._loop.rewatch(self._pipe.fileno(), EPOLLOUT)

    def close(self) -> None:
        if self._segment is not None:
            self._segment[1].close()
            self._segment = None
        if not self._pipe.closed:
            self._loop.unwatch(self._pipe.fileno())
            self._pipe.close()

    def _on_events(self, events: int) -> None:
        if events & EPOLLERR:
            self._finish()
            return
        data = self._next()
        if not data:
            if self._until is not None:
                self._finish()
            else:
                self._loop.rewatch(self._pipe.fileno(), 0)  # EPOLLERR is told all the same
            return
        try:
            written = os.write(self._pipe.fileno(), data)
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._finish()
            return
        if self._note:
            self._note = self._note[written:]
        else:
            self._place = Place(self._place.segment, self._place.offset + written)
            self._on_moved(self._place)

    def _next(self) -> bytes:
        """What comes next, b"" for nothing yet."""
        while not self._note:
            if self._until is not None and self._place >= self._until:
                return b""
            data = self._read()
            if data:
                return data
            following = self._files.after(self.service, self._place.segment)
            if following is None:
                return b""
            if following > self._place.segment + 1:
                self._note = _GAP
            self._place = Place(following, 0)
        return self._note

    def _read(self) -> bytes:
        number, offset = self._place
        if self._segment is None or self._segment[0] != number:
            if self._segment is not None:
                self._segment[1].close()
                self._segment = None
            try:
                self._segment = number, self._files.open(self.service, number)
            except FileNotFoundError:
                return b""
        most = _CHUNK
        if self._until is not None and self._until.segment == number:
            most = min(most, self._until.offset - offset)
        return os.pread(self._segment[1].fileno(), most, offset)

    def _finish(self) -> None:
        self.close()
        self._on_end()
