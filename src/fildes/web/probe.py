"""Whether a candidate is well: one request, over a stream that the orchestrator has introduced to it.

The door asks, because whoever reads what a program answers parses what a stranger wrote: that is the door's trade. Of
the answer its status counts; the rest is read for a moment, so that the program need not write into a closed stream.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN, EPOLLRDHUP, Loop, Promise
from fildes.wire.web import Probe, Probed

MOST: Final = 64 * 1024  # bytes of interim answers and of the status line
_PATIENCE: Final = 1.0  # seconds for the rest of an answer
_REST: Final = 1 << 20  # bytes of it
_PIECE: Final = 64 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: ([^\r\n]{0,64})[^\r\n]*)?\r?\n")


def request(host: str, path: str) -> bytes:
    """The head that is sent. `host` and `path` come from a checked manifest."""
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "User-Agent: fildes-health", "Accept: */*", "Connection: close")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def verdict(data: bytes, ended: bool) -> Probed | None:
    """What the bytes so far say; None: not enough. Pure."""
    while True:
        found = _STATUS.match(data)
        if found is None:
            break
        status = int(found[1])
        if status >= 200:
            reason = (found[2] or b"").decode("ascii", "replace")
            text = "".join(letter if letter.isprintable() else "?" for letter in reason)
            return Probed(status, f"it answered {status} {text}".rstrip())
        _, end, data = data.partition(b"\r\n\r\n")
        if not end:
            break
    if ended:
        return Probed(0, "it closed the connection without an answer" if not data else "its answer is no HTTP")
    if len(data) > MOST or (b"\n" in data and found is None):
        return Probed(0, "its answer is no HTTP")
    return None


async def ask(loop: Loop, stream: Fd, asked: Probe) -> Probed:
    """Consumes `stream`, a connected one."""
    answer: Promise[Probed] = Promise(loop)
    _Asking(loop, stream, answer.resolve).begin(asked)
    return await answer


class _Asking:
    def __init__(self, loop: Loop, stream: Fd, tell: Callable[[Probed], object]) -> None:
        self._loop, self._stream, self._tell = loop, stream, tell
        self._data = b""
        self._rest: int | None = None  # bytes that are still read, once the verdict is known

    def begin(self, asked: Probe) -> None:
        text = f"it did not answer within {asked.seconds:g} s"
        self._timer = self._loop.call_later(asked.seconds, lambda: self._say(Probed(0, text)))
        os.set_blocking(self._stream.fileno(), False)
        self._loop.watch(self._stream.fileno(), EPOLLIN | EPOLLRDHUP, self._readable)
        try:
            os.write(self._stream.fileno(), request(asked.host, asked.path))
        except OSError:
            self._say(Probed(0, "it closed the connection before it was asked"))

    def _readable(self, _: int) -> None:
        try:
            piece = os.read(self._stream.fileno(), _PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if self._rest is not None:
            self._rest -= len(piece)
            if not piece or self._rest <= 0:
                self._close()
            return
        self._data += piece
        found = verdict(self._data, not piece)
        if found is not None:
            self._say(found)
            if not piece:
                self._close()

    def _say(self, found: Probed) -> None:
        if self._rest is None:
            self._timer.cancel()
            self._rest = _REST
            self._data = b""
            self._loop.call_later(_PATIENCE if found.status else 0.0, self._close)
            self._tell(found)

    def _close(self) -> None:
        if not self._stream.closed:
            self._loop.unwatch(self._stream.fileno())
            self._stream.close()
