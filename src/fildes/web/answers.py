"""What the door says itself: short refusals, then an orderly end of the connection."""

from __future__ import annotations

import socket
from typing import Final

from fildes.daemon.deadlines import Deadlines
from fildes.kernel.loop import EPOLLIN, EPOLLRDHUP, Loop
from fildes.web.access import About, note
from fildes.web.parcels import Past
from fildes.web.sockets import borrow, close_passed
from fildes.wire.http import Bad, refusal

_LINGER: Final = 2.0  # seconds in which a client may read its answer


class Answers:
    """Owns the connections that it was given to refuse, until they are closed."""

    def __init__(self, loop: Loop, limit: int, *, logged: bool = False) -> None:
        self._loop = loop
        self._logged = logged
        self._limit = limit
        self._deadlines = Deadlines(loop, _LINGER, self._close)

    def __len__(self) -> int:
        return len(self._deadlines)

    def refuse(
        self,
        number: int,
        status: int,
        sentence: str,
        extra: str = "",
        *,
        head_only: bool = False,
        passed: bool = False,
        about: About | None = None,
    ) -> None:
        """Answer and close. `passed`: somebody else holds or held the connection too, it must not be shut down.
        `about` is for the access log."""
        data = refusal(Bad(status, sentence), extra)
        size = data.index(b"\r\n\r\n") + 4
        if head_only:
            data = data[:size]
        if self._logged:
            note(status, len(data) - size, about)
        sock = borrow(number)
        try:
            sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if not passed:
                sock.shutdown(socket.SHUT_WR)
            elif not _has_unread(sock):
                # It can't be shut down, but closed: if nobody else holds it any more, that ends it.
                close_passed(number)
                return
        except OSError:  # the client is gone, or doesn't read: nobody to tell
            close_passed(number)
            return
        finally:
            sock.detach()
        self._linger(number)

    def drain(self, number: int, *, passed: bool = False) -> None:
        """An answer was relayed: end the connection in order."""
        sock = borrow(number)
        try:
            if not passed:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            close_passed(number)
            return
        finally:
            sock.detach()
        self._linger(number)

    def _linger(self, number: int) -> None:
        # Closing with bytes unread would reset the connection, and the reset overtake the answer (RFC 9112 9.6).
        if len(self._deadlines) >= self._limit:
            oldest = self._deadlines.oldest()
            if oldest is not None:
                self._close(oldest)
        self._loop.watch(number, EPOLLIN | EPOLLRDHUP, lambda _: self._drain(number))
        self._deadlines.add(number)

    def crowded(self, number: int, past: Past, *, head_only: bool = False, about: About | None = None) -> None:
        """Its client has as many connections as one may have."""
        text = "There are too many connections from this address; close some, or come back later."
        self.refuse(number, 429, text, "retry-after: 5\r\n", head_only=head_only, passed=past.passed, about=about)

    def unavailable(
        self,
        number: int,
        sentence: str,
        *,
        head_only: bool = False,
        passed: bool = False,
        about: About | None = None,
    ) -> None:
        self.refuse(number, 503, sentence, "retry-after: 1\r\n", head_only=head_only, passed=passed, about=about)

    def _drain(self, number: int) -> None:
        sock = borrow(number)
        try:
            for _ in range(4):
                if not sock.recv(65536, socket.MSG_DONTWAIT):
                    break
            else:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        finally:
            sock.detach()
        self._close(number)

    def _close(self, number: int) -> None:
        self._deadlines.remove(number)
        self._loop.unwatch(number)
        close_passed(number)

    def close(self) -> None:
        """Close all at once."""
        while (number := self._deadlines.oldest()) is not None:
            self._close(number)


def _has_unread(sock: socket.SocketType) -> bool:
    try:
        return bool(sock.recv(65536, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False
