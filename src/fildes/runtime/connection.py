"""One client's connection inside an instance: a number, what was read ahead, what is still to be written.

No transport and no protocol object: they cost more than the request does. Reading is done by whoever owns the
connection at the moment (`owner`), and nobody when it is idle.
"""

from __future__ import annotations

import os
from asyncio import Future
from select import EPOLLIN, EPOLLOUT
from socket import AF_INET, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, SHUT_WR, SOCK_STREAM, SocketType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fildes.runtime.keeping import Keeping

_LAST = MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL
_SocketType = SocketType  # the C type: half the price of socket.socket


class ClientGone(ConnectionResetError):
    """The client closed the connection, or it broke, before the response was complete."""


def send_last(fd: int, data: bytes | memoryview) -> int:
    """Write the last bytes of a connection; with all of them goes its end, in one segment: where the door holds a copy
    still, closing ours does not say so, and the segment that does would be another. How many were written; raises
    what send(2) and shutdown(2) do."""
    end = _SocketType(AF_INET, SOCK_STREAM, 0, fd)
    try:
        written = end.send(data, _LAST)
        if written == len(data):
            end.shutdown(SHUT_WR)
    finally:
        end.detach()
    return written


class Owner(Protocol):
    """Who a connection's events go to while a request runs on it."""

    def on_readable(self) -> None: ...

    def on_written(self) -> None:
        """What did not fit into the socket is written now."""

    def on_gone(self) -> None:
        """The connection is closed; wake whoever waits."""

    def on_sweep(self, now: float) -> None:
        """Every SWEEP seconds: has somebody waited too long?"""

    def on_drain(self) -> None:
        """The instance is to end: finish soon."""


class Connection:
    __slots__ = (
        "buffer",
        "client",
        "eof",
        "fd",
        "flags",
        "kept",
        "mask",
        "out",
        "owner",
        "scheme",
        "serial",
        "serving",
        "since",
        "told",
        "waiters",
    )

    def __init__(self, serving: Keeping, fd: int, serial: int, flags: int, client: tuple[str, int]) -> None:
        self.serving = serving
        self.fd = fd  # −1 once closed or handed back
        self.serial = serial  # the door's number; −1 for an introduced stream
        self.flags = flags
        self.client = client
        self.scheme = "https" if flags & 1 else "http"
        self.buffer = b""  # read, and not used yet
        self.out: memoryview | None = None  # accepted for writing, not written yet
        self.mask = -1  # events that epoll watches for, besides EPOLLHUP and EPOLLERR; −1: not registered at all
        self.eof = False  # the client has finished sending; it may still be reading
        self.kept = False  # the door counts it, and is to be told when it ends
        self.told = serial < 0  # the door knows that the response has begun
        self.since = 0.0  # when something last moved, on the loop's clock
        self.owner: Owner | None = None
        self.waiters: list[Future[None]] | None = None  # of senders, for `out` to be empty

    def watch(self, mask: int) -> None:
        """Wait for exactly these events from now on (0: only for the connection to break)."""
        if mask == self.mask or self.fd < 0:
            return
        if self.mask < 0:
            self.serving.epoll.register(self.fd, mask)
        else:
            self.serving.epoll.modify(self.fd, mask)
        self.mask = mask

    def watch_also(self, events: int) -> None:
        self.watch(events if self.mask < 0 else self.mask | events)

    def read(self, size: int = 65536) -> bytes | None:
        """What has arrived; None for nothing yet, b"" (and `eof`) for the end. Closes when the connection is broken."""
        if self.eof or self.fd < 0:
            return b""
        try:
            data = os.read(self.fd, size)
        except BlockingIOError:
            return None
        except OSError:
            self.serving.close(self)
            return b""
        if not data:
            self.eof = True
        return data

    def write(self, data: bytes) -> bool:
        """Write, or keep what doesn't fit; whether nothing is left. Raises ClientGone."""
        if self.fd < 0:
            raise ClientGone("the client has closed the connection")
        if self.out is not None:
            self.out = memoryview(bytes(self.out) + data)
            self.serving.debts.grew(self)
            return False
        try:
            written = os.write(self.fd, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self.serving.close(self)
            raise ClientGone("the client has closed the connection") from error
        if not self.told:
            self.serving.tell(self)
        if written == len(data):
            return True
        return self._keep_rest(data, written)

    def write_last(self, data: bytes) -> bool:
        """As `write`, of the last bytes of all, while nothing is left from before. See `send_last`."""
        if self.fd < 0:
            raise ClientGone("the client has closed the connection")
        try:
            written = send_last(self.fd, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self.serving.close(self)
            raise ClientGone("the client has closed the connection") from error
        if not self.told:
            self.serving.tell(self)
        return written == len(data) or self._keep_rest(data, written)

    def _keep_rest(self, data: bytes, written: int) -> bool:
        self.out = memoryview(data)[written:]
        self.since = self.serving.time()
        self.watch_also(EPOLLOUT)
        self.serving.debts.grew(self)
        return False

    async def written(self) -> None:
        """Wait until everything accepted for writing is written. Raises ClientGone."""
        while self.out is not None:
            waiter = self.serving.loop.create_future()
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(waiter)
            await waiter
        if self.fd < 0:
            raise ClientGone("the client has closed the connection")

    def on_writable(self) -> None:
        if self.out is not None:
            try:
                written = os.write(self.fd, self.out)
            except BlockingIOError:
                return
            except OSError:
                self.serving.close(self)
                return
            self.since = self.serving.time()
            self.out = self.out[written:] if written < len(self.out) else None
            self.serving.debts.moved(self)
            if self.out is not None:
                return
        self.watch(self.mask & ~EPOLLOUT)
        self.wake()
        if self.owner is not None:
            self.owner.on_written()

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def look_ahead(self, limit: int) -> None:
        """Read on while a request runs, to notice the end; stop watching at the end and at `limit` unused bytes."""
        if len(self.buffer) < limit and not self.eof:
            data = self.read()
            if data:
                self.buffer += data
            if data != b"":
                return
        self.watch(self.mask & ~EPOLLIN)
