"""One HTTP request and its response, as an ASGI program sees them (ASGI 3.0, HTTP message format 2.3).

A new Exchange for each request: a `send` that a program kept from an earlier request must not reach a later one.
The response's head is held back until the first piece of body comes, or the program pauses, so that head and body
are one write.
"""

from __future__ import annotations

import sys
import traceback
from asyncio import CancelledError, Future, Task
from collections.abc import MutableMapping
from select import EPOLLIN
from typing import TYPE_CHECKING, Any

from fildes.runtime.connection import ClientGone, Connection
from fildes.runtime.response import Prepared, prepare
from fildes.wire.http import HEAD_LIMIT, Bad, Fields, Line, Refused
from fildes.wire.http_body import Chunked, Sized

if TYPE_CHECKING:
    from fildes.runtime.loop import Serving

Message = MutableMapping[str, Any]

ASGI = {"version": "3.0", "spec_version": "2.3"}

WAITING, STARTED, STREAMING, COMPLETE = range(4)

GRACE = 2.0  # s that a response may pause after the client has finished sending, which may mean that it is gone
BODY_TIMEOUT = 60.0  # s without a byte of a body that the program waits for
# Where requests have taken most places: the least that a body must bring, after a while of patience.
BODY_PATIENCE = 10.0  # s
BODY_RATE = 256.0  # bytes/s
WRITE_TIMEOUT = 60.0  # s without a byte taken by the client
WORTH_READING = 262144  # bytes of an unread body that are read and dropped to keep a connection

_NOTHING = Prepared(b"", None, False, False)


class Exchange:
    __slots__ = (
        "began",
        "chunked",
        "connection",
        "delivered",
        "expect",
        "gone",
        "got",
        "head_only",
        "keep",
        "left",
        "old",
        "patience",
        "phase",
        "prepared",
        "reader",
        "serving",
        "settled",
        "task",
        "usual",
        "waiters",
        "wants",
    )

    def __init__(self, serving: Serving, connection: Connection, line: Line, fields: Fields) -> None:
        self.serving = serving
        self.connection = connection
        self.task: Task[None] | None = None
        self.phase = WAITING
        self.gone = False
        self.prepared = _NOTHING
        self.waiters: list[Future[None]] | None = None  # of receivers
        self.wants = False  # a receiver waits for more of the body
        self.began = 0.0  # when it first did
        self.got = 0  # bytes of body since then
        self.head_only = line.method == "HEAD"
        self.old = line.version == "1.0"
        if self.old:
            self.keep = fields.keep_alive and not fields.close
            self.expect = False
        else:
            self.keep = not fields.close
            self.expect = fields.expect_continue  # the client waits for 100 before it sends the body
        self.usual = not self.head_only and not self.old
        self.settled = False  # its first steps are over, and the response is not complete
        self.patience = 3
        self.chunked = False  # how the response is framed
        self.left = -1  # bytes still to come of a response whose length is known
        self.delivered = False  # the program has got the request's body whole
        self.reader: Sized | Chunked | None = None
        if fields.chunked:
            self.reader = Chunked()
        elif fields.content_length:
            self.reader = Sized(fields.content_length)

    async def run(self, scope: dict[str, Any]) -> None:
        try:
            await self.serving.program(scope, self.receive, self.send)
            if self.phase != COMPLETE and not self.gone:
                raise RuntimeError("the program returned before its response was complete")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failed(error, scope)
        finally:
            self.task = None
            self.serving.ended()

    # What the program calls

    async def receive(self) -> Message:
        if self.phase == COMPLETE or self.gone:
            return {"type": "http.disconnect"}
        if self.reader is not None:
            return await self._receive_body(self.reader)
        if not self.delivered:
            self.delivered = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while self.phase != COMPLETE and not self.gone:
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self.phase != WAITING:
                raise RuntimeError("http.response.start was sent before")
            self.prepared = prepare(message["status"], message.get("headers", ()))
            self.phase = STARTED
            if self.settled:
                self.serving.attend(self)
        elif kind != "http.response.body":
            raise RuntimeError(f"a response has no message {kind!r}")
        elif self.phase == STARTED:
            body = message.get("body", b"")
            if message.get("more_body", False):
                await self._write(self._first(body))
            else:
                data = self._whole(body)
                self.phase = COMPLETE
                if not self.connection.write(data):
                    await self.connection.written()
                self._done()
        elif self.phase == STREAMING:
            more = message.get("more_body", False)
            data = self._next(message.get("body", b""), more)
            if not more:
                self.phase = COMPLETE
            await self._write(data)
            if not more:
                self._done()
        elif self.phase == WAITING:
            raise RuntimeError("http.response.body was sent before http.response.start")
        else:
            raise RuntimeError("the response is complete: there can be no more of it")

    # The request's body

    async def _receive_body(self, reader: Sized | Chunked) -> Message:
        connection = self.connection
        while True:
            data: bytes | None = connection.buffer
            if data:
                connection.buffer = b""
            else:
                data = connection.read()
            if data is None:
                await self._more_body()
                if self.phase == COMPLETE or self.gone:
                    break
                continue
            if not data:
                self.serving.close(connection)
                break
            try:
                body = reader.feed(data)
            except Refused as refused:
                self._refuse(refused.bad)
                break
            self.expect = False
            self.got += len(data)
            if reader.done:
                connection.buffer = reader.rest
                self.reader = None
                self.delivered = True
                return {"type": "http.request", "body": body, "more_body": False}
            if body:
                return {"type": "http.request", "body": body, "more_body": True}
        return {"type": "http.disconnect"}

    async def _more_body(self) -> None:
        connection = self.connection
        if self.expect:
            self.expect = False
            if self.phase == WAITING:
                connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.since = self.serving.time()
        self.began = self.began or connection.since
        connection.watch_also(EPOLLIN)
        self.wants = True
        try:
            await self._wait()
        finally:
            self.wants = False

    async def _wait(self) -> None:
        waiter = self.serving.loop.create_future()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # The response

    def _whole(self, body: bytes) -> bytes:
        """Head and body of a response that is complete."""
        prepared = self.prepared
        size = len(body)
        if (
            prepared.length == size
            and self.usual
            and self.keep
            and self.reader is None
            and not prepared.close
            and not prepared.bodyless
            and not self.connection.eof
            and not self.serving.ending.draining
            and self.serving.dater is None
        ):
            return prepared.complete + body
        silent = self.head_only or prepared.bodyless
        framing = b""
        if prepared.length is None:
            if not prepared.bodyless:
                framing = b"content-length: %d\r\n" % size
        elif prepared.length != size and not silent:
            raise RuntimeError(f"the response has {size} bytes of body, but its content-length is {prepared.length}")
        head = prepared.text + framing + self._last_lines(prepared) + b"\r\n"
        return head if silent else b"".join((head, body))

    def _first(self, body: bytes) -> bytes:
        """Head and first piece of a response of which more will come."""
        prepared = self.prepared
        framing = b""
        if prepared.bodyless or self.head_only:
            self.left = -1
            if not prepared.bodyless and prepared.length is None and not self.old:
                framing = b"transfer-encoding: chunked\r\n"
        elif prepared.length is not None:
            self.left = prepared.length
        elif self.old:
            self.keep = False  # the end of the connection is the end of the body
        else:
            self.chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        head = prepared.text + framing + self._last_lines(prepared) + b"\r\n"
        self.phase = STREAMING
        return head + self._next(body, True)

    def _next(self, body: bytes, more: bool) -> bytes:
        """A piece of the body, framed."""
        if self.head_only or self.prepared.bodyless:
            return b""
        size = len(body)
        if self.chunked:
            last = b"" if more else b"0\r\n\r\n"
            return b"%x\r\n%b\r\n%b" % (size, body, last) if size else last
        if self.left >= 0:
            self.left -= size
            if self.left < 0:
                raise RuntimeError("the response has more bytes of body than its content-length says")
            if self.left and not more:
                raise RuntimeError("the response has fewer bytes of body than its content-length says")
        return bytes(body)

    def _last_lines(self, prepared: Prepared) -> bytes:
        connection = self.connection
        if prepared.close or self.serving.ending.draining or (connection.eof and not connection.buffer):
            self.keep = False
        reader = self.reader
        # A client that expects 100 may or may not send its body now; a long one isn't worth reading.
        if reader is not None and (self.expect or (isinstance(reader, Sized) and reader.left > WORTH_READING)):
            self.keep = False
        dater = self.serving.dater
        date = dater.line() if dater is not None and not prepared.dated else b""
        if not self.keep:
            return date + b"connection: close\r\n"
        return date + b"connection: keep-alive\r\n" if self.old else date

    async def _write(self, data: bytes) -> None:
        connection = self.connection
        if connection.eof:
            connection.since = self.serving.time()
        if connection.fd < 0:
            raise ClientGone("the client has closed the connection")
        if data and not connection.write(data):
            await connection.written()

    def _done(self) -> None:
        self.phase = COMPLETE
        self._wake()
        self.serving.answered(self.connection, self.keep, self.reader)

    def _failed(self, error: BaseException, scope: dict[str, Any]) -> None:
        if not (isinstance(error, CancelledError | ClientGone) or (self.gone and isinstance(error, OSError))):
            print(f"{scope['method']} {scope['path']} failed:", file=sys.stderr)
            traceback.print_exception(error, file=sys.stderr)
        if self.phase == COMPLETE or self.gone:
            if self.connection.owner is self:  # cancelled while the last of the response waited to be written
                self.serving.close(self.connection)
        elif self.phase == STREAMING:
            # Whatever was sent is not the whole: only an abrupt end says so.
            self.phase = COMPLETE
            self.serving.close(self.connection)
        else:
            self._refuse(Bad(500, "The program failed; its log says why."))

    def _refuse(self, bad: Bad) -> None:
        if self.phase in (WAITING, STARTED):
            self.phase = COMPLETE
            self.serving.refuse(self.connection, bad, self.head_only)
        else:
            self.phase = COMPLETE
            self.serving.close(self.connection)
        self._wake()

    # What the connection reports

    def settle(self) -> None:
        """The program has paused with the response not complete: send what is held, and look out for the client."""
        if self.gone or self.phase == COMPLETE:
            return
        self.settled = True
        if self.phase == STARTED:
            # A middleware may pass the body on in a later step: wait for that, it saves a write and the chunks.
            self.patience -= 1
            if self.patience:
                self.serving.attend(self)
                return
            try:
                self.connection.write(self._first(b""))
            except ClientGone:
                return
        if self.connection.mask < 0:
            self.connection.watch(EPOLLIN)

    def on_readable(self) -> None:
        connection = self.connection
        if self.wants:
            self._wake()
        elif self.reader is not None:
            connection.watch(connection.mask & ~EPOLLIN)  # until the program asks for it
        else:
            connection.look_ahead(HEAD_LIMIT)
            if connection.eof:
                connection.since = self.serving.time()

    def on_gone(self) -> None:
        self.gone = True
        self._wake()

    def on_sweep(self, now: float) -> None:
        connection = self.connection
        idle = now - connection.since
        if connection.out is not None:
            late = idle > WRITE_TIMEOUT
        elif self.wants:
            waited = now - self.began
            late = idle > BODY_TIMEOUT
            if late or (
                waited > self.serving.body_patience and self.got < waited * BODY_RATE and self.serving.is_pressed()
            ):
                self._refuse(Bad(408, "The body of the request comes too slowly."))
                return
        else:
            late = connection.eof and idle > GRACE
        if late:
            self.serving.close(connection)

    def on_drain(self) -> None:
        """The response's head will say that the connection closes; a streaming one has 30 s."""
