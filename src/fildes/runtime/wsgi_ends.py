"""A connection as the threads of a WSGI instance share it, and who owns it around a call of the program."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT
from typing import Any

from fildes.wire.conveyor import TLS
from fildes.wire.http import Bad

WRITE_TIMEOUT = 60.0  # s without a byte taken by the client
BODY_TIMEOUT = 60.0  # s for the body of a small request


class Client:
    """As `connection.Connection`, for threads: nobody awaits anything here."""

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
    )

    def __init__(self, serving: Any, fd: int, serial: int, flags: int, client: tuple[str, int]) -> None:
        self.serving = serving
        self.fd = fd  # −1 once closed or handed back
        self.serial = serial  # the door's number; −1 for an introduced stream
        self.flags = flags
        self.client = client
        self.scheme = "https" if flags & TLS else "http"
        self.buffer = b""  # read, and not used yet
        self.out: memoryview | None = None  # the end of a last response, not written yet
        self.mask = -1  # events that epoll watches for, besides EPOLLHUP and EPOLLERR; −1: not registered at all
        self.eof = False  # the client has finished sending; it may still be reading
        self.kept = False  # the door counts it, and is to be told when it ends
        self.told = serial < 0  # the door knows that the response has begun
        self.since = 0.0  # when something last moved
        self.owner: Any = None

    def watch(self, mask: int) -> None:
        """Wait for exactly these events from now on (0: only for the connection to break)."""
        if mask == self.mask or self.fd < 0:
            return
        if self.mask < 0:
            self.serving.epoll.register(self.fd, mask)
        else:
            self.serving.epoll.modify(self.fd, mask)
        self.mask = mask

    def park(self) -> None:
        """Nothing is heard of it until `watch`. By the leader, or while it is in a call with the crew's lock."""
        if self.mask >= 0:
            self.mask = -1
            with contextlib.suppress(OSError):
                self.serving.epoll.unregister(self.fd)

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

    def read_on(self) -> bool:
        """Add to `buffer` what has arrived. False: nothing came; `eof` says whether something may still come."""
        data = self.read()
        if data:
            self.buffer += data
        return bool(data)

    def finish(self, data: bytes | memoryview) -> bool:
        """Write the last of a response; what does not fit is kept in `out`. Whether nothing is left."""
        try:
            written = os.write(self.fd, data)
        except BlockingIOError:
            written = 0
        except OSError:
            self.serving.close(self)
            return False
        self.serving.tell(self)
        if written == len(data):
            return True
        self.out = memoryview(data)[written:]
        self.since = self.serving.time()
        return False

    def last_words(self, data: bytes) -> None:
        """Write what fits and end our direction, while another thread has the connection."""
        with contextlib.suppress(OSError):
            os.write(self.fd, data)
            end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self.fd)
            try:
                end.shutdown(socket.SHUT_WR)
            finally:
                end.detach()


class Flushing:
    """The program is done with the request; the client has not taken all of the response yet."""

    __slots__ = ("connection", "serving", "then")

    def __init__(self, serving: Any, connection: Client, then: Callable[[], None]) -> None:
        self.serving = serving
        self.connection = connection
        self.then = then
        connection.since = serving.time()
        connection.watch(EPOLLOUT)

    def on_writable(self) -> None:
        connection = self.connection
        if connection.out is None or not connection.finish(connection.out):
            return
        connection.out = None
        self.then()

    def on_readable(self) -> None: ...

    def on_gone(self) -> None: ...

    def on_sweep(self, now: float) -> None:
        if now - self.connection.since > WRITE_TIMEOUT:
            self.serving.close(self.connection)

    def on_drain(self) -> None: ...


class Gathering:
    """The rest of a small body is waited for before the program is called: no thread has to."""

    __slots__ = ("connection", "serving", "want")

    def __init__(self, serving: Any, connection: Client, want: int) -> None:
        self.serving = serving
        self.connection = connection
        self.want = want
        connection.since = serving.time()
        connection.watch(EPOLLIN)

    def on_readable(self) -> None:
        connection = self.connection
        if connection.read_on():
            if len(connection.buffer) >= self.want:
                connection.owner = None
                self.serving.ready.append((connection, 0))
        elif connection.eof:
            self.serving.close(connection)

    def on_gone(self) -> None: ...

    def on_sweep(self, now: float) -> None:
        if now - self.connection.since > BODY_TIMEOUT:
            self.serving.refuse(self.connection, Bad(408, "The body of the request comes too slowly."))

    def on_drain(self) -> None: ...
