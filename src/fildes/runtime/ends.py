"""Who owns a connection while no request runs on it, but it isn't idle either."""

from __future__ import annotations

import socket
from select import EPOLLIN
from typing import TYPE_CHECKING

from fildes.runtime.connection import Connection
from fildes.wire.http import HEAD_LIMIT, Bad
from fildes.wire.http_body import Chunked, Sized
from fildes.wire.http_fields import Refused

if TYPE_CHECKING:
    from fildes.runtime.keeping import Keeping

LINGER = 2.0  # s
WRITE_TIMEOUT = 60.0  # s without a byte taken by the client
UNREAD = 262144  # bytes of an unread body that are dropped before the connection is given up


class Waiting:
    """The connection waits for something that we do: for its next request to begin, for the door to take it back."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def on_readable(self) -> None:
        self.connection.look_ahead(HEAD_LIMIT)

    def on_written(self) -> None: ...

    def on_gone(self) -> None: ...

    def on_sweep(self, now: float) -> None: ...

    def on_drain(self) -> None: ...


class Queued(Waiting):
    """A whole request has arrived, and waits for its turn."""

    __slots__ = ("serving", "since")

    def __init__(self, serving: Keeping, connection: Connection) -> None:
        super().__init__(connection)
        self.serving = serving
        self.since = serving.time()

    def on_sweep(self, now: float) -> None:
        if now - self.since > self.serving.timeout:
            busy = Bad(503, "The service is busy; try again a little later.")
            self.serving.refuse(self.connection, busy, extra="retry-after: 5\r\n")


class Sending:
    """A response is complete, and the client has not taken all of it yet. Its program is done with it."""

    __slots__ = ("connection", "keep", "reader", "serving")

    def __init__(self, serving: Keeping, connection: Connection, keep: bool, reader: Sized | Chunked | None) -> None:
        self.serving = serving
        self.connection = connection
        self.keep = keep
        self.reader = reader

    def on_readable(self) -> None:
        self.connection.look_ahead(HEAD_LIMIT)

    def on_written(self) -> None:
        self.serving.answered(self.connection, self.keep, self.reader)

    def on_gone(self) -> None: ...

    def on_sweep(self, now: float) -> None:
        if now - self.connection.since > WRITE_TIMEOUT:
            self.serving.close(self.connection)

    def on_drain(self) -> None:
        self.keep = False


class Discarding:
    """The response is complete, and the program has not read all of the request's body: drop the rest of it."""

    __slots__ = ("connection", "left", "reader", "serving")

    def __init__(self, serving: Keeping, connection: Connection, reader: Sized | Chunked) -> None:
        self.serving = serving
        self.connection = connection
        self.reader = reader
        self.left = UNREAD
        connection.since = serving.time()
        connection.watch(EPOLLIN)

    def on_readable(self) -> None:
        connection = self.connection
        data, connection.buffer = connection.buffer or connection.read(), b""
        if data is None:
            return
        self.left -= len(data)
        try:
            self.reader.feed(data)
        except Refused:
            self.left = -1
        if not data or self.left < 0:
            self.serving.linger(connection)
        elif self.reader.done:
            connection.buffer = self.reader.rest
            self.serving.answered(connection, True, None)

    def on_written(self) -> None: ...

    def on_gone(self) -> None: ...

    def on_sweep(self, now: float) -> None:
        if now - self.connection.since > LINGER:
            self.serving.close(self.connection)

    def on_drain(self) -> None:
        self.serving.linger(self.connection)


class Lingering:
    """The last response is written, and the client may still be sending.

    Closing with unread bytes in the receive queue sends a reset, which can destroy the response on its way
    (RFC 9112 9.6): say that we are done, and read until the client closes too.
    """

    __slots__ = ("connection", "left", "serving")

    def __init__(self, serving: Keeping, connection: Connection) -> None:
        self.serving = serving
        self.connection = connection
        self.left = UNREAD
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, connection.fd)
        try:
            end.shutdown(socket.SHUT_WR)
        finally:
            end.detach()
        connection.since = serving.time()
        connection.watch(EPOLLIN)

    def on_readable(self) -> None:
        data = self.connection.read()
        if data is not None:
            self.left -= len(data)
            if not data or self.left < 0:
                self.serving.close(self.connection)

    def on_written(self) -> None: ...

    def on_gone(self) -> None: ...

    def on_sweep(self, now: float) -> None:
        if now - self.connection.since > LINGER:
            self.serving.close(self.connection)

    def on_drain(self) -> None: ...
