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
from fildes.runtime.framing import Framing
from fildes.runtime.keeping import COMPLETE, STARTED, STREAMING, TRAILING, WAITING
from fildes.runtime.response import prepare
from fildes.wire.http import HEAD_LIMIT, Bad, Fields, Line, Refused
from fildes.wire.http_body import Chunked, Sized

if TYPE_CHECKING:
    from fildes.runtime.loop import Serving

Message = MutableMapping[str, Any]

ASGI = {"version": "3.0", "spec_version": "2.3"}

GRACE = 2.0  # s that a response may pause after the client has finished sending, which may mean that it is gone
BODY_TIMEOUT = 60.0  # s without a byte of a body that the program waits for
# Where requests have taken most places: the least that a body must bring, after a while of patience.
BODY_PATIENCE = 10.0  # s
BODY_RATE = 256.0  # bytes/s
WRITE_TIMEOUT = 60.0  # s without a byte taken by the client
WRITE_PATIENCE = 10.0  # s, where places are short


def too_large(limit: int) -> Bad:
    return Bad(413, f"The body of a request is at most {limit} bytes here ([limits] body).")


class Exchange(Framing):
    __slots__ = (
        "asked",
        "began",
        "delivered",
        "gone",
        "got",
        "line",
        "patience",
        "settled",
        "size",
        "tail",
        "task",
        "waiters",
        "wants",
    )

    def __init__(self, serving: Serving, connection: Connection, line: Line, fields: Fields) -> None:
        super().__init__(serving, connection, line, fields)
        self.line = line
        self.task: Task[None] | None = None
        self.asked = 0.0  # when the program last got something that it may answer
        self.size = 0  # bytes of body that it got
        self.tail: list[bytes] | None = None  # trailers to come, and those that have
        self.gone = False
        self.waiters: list[Future[None]] | None = None  # of receivers
        self.wants = False  # a receiver waits for more of the body
        self.began = 0.0  # when it first did
        self.got = 0  # bytes of body since then
        self.settled = False  # its first steps are over, and the response is not complete
        self.patience = 3
        self.delivered = False  # the program has got the request's body whole

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
            if message.get("trailers", False):
                self.tail = []
            if self.settled:
                self.serving.attend(self)
        elif kind == "http.response.trailers" and self.tail is not None and self.phase == TRAILING:
            self.tail.append(prepare(200, message.get("headers", ())).text.partition(b"\r\n")[2])
            if not message.get("more_trailers", False):
                await self._last(self._trailer(b"".join(self.tail)))
        elif kind != "http.response.body":
            raise RuntimeError(f"{kind!r} can't be sent on a response in this state")
        elif self.phase == STARTED:
            body = message.get("body", b"")
            if message.get("more_body", False):
                await self._write(self._first(body))
            elif self.tail is not None:
                await self._write(self._before_trailers(self._first(body)))
            else:
                data = self._whole(body)
                self.phase = COMPLETE
                if self.waiters:
                    self._wake()
                if not self.serving.post(self.connection, data, self.keep, self.reader):
                    await self._written()
        elif self.phase == STREAMING:
            body = message.get("body", b"")
            if message.get("more_body", False):
                await self._write(self._next(body, True))
            elif self.tail is not None:
                await self._write(self._before_trailers(self._next(body, True)))
            else:
                await self._last(self._next(body, False))
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
            self.size += len(body)
            if self.size > self.serving.body:
                self._refuse(too_large(self.serving.body))
                break
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
        lent = self.serving.lend(reading=True)
        try:
            await self._wait()
        finally:
            self.wants = False
            self.asked = self.serving.time()
            if lent:
                self.serving.reclaim(reading=True)

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

    async def _write(self, data: bytes) -> None:
        connection = self.connection
        if connection.eof:
            connection.since = self.serving.time()
        if connection.fd < 0:
            raise ClientGone("the client has closed the connection")
        if data and not connection.write(data):
            await self._written()

    async def _last(self, data: bytes) -> None:
        self.phase = COMPLETE
        self._wake()
        if self.connection.fd >= 0 and not self.serving.post(self.connection, data, self.keep, self.reader):
            await self._written()

    async def _written(self) -> None:
        """Wait until the client has taken what was written; others may run in the meantime."""
        lent = self.serving.lend()
        try:
            await self.connection.written()
        finally:
            if lent:
                self.serving.reclaim()

    def _failed(self, error: BaseException, scope: dict[str, Any]) -> None:
        if not (isinstance(error, CancelledError | ClientGone) or (self.gone and isinstance(error, OSError))):
            print(f"{scope['method']} {scope['path']} failed:", file=sys.stderr)
            traceback.print_exception(error, file=sys.stderr)
        if self.phase == COMPLETE or self.gone:
            return
        if self.phase in (STREAMING, TRAILING):
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
        self.asked = self.asked or self.serving.now
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

    def on_written(self) -> None:
        """Whoever waits for that has been woken."""

    def on_gone(self) -> None:
        self.gone = True
        self._wake()

    def on_sweep(self, now: float) -> None:
        if self.phase == COMPLETE:
            return
        connection = self.connection
        idle = now - connection.since
        if connection.out is not None:
            late = idle > (WRITE_PATIENCE if self.serving.is_pressed() else WRITE_TIMEOUT)
        elif self.wants:
            waited = now - self.began
            late = idle > BODY_TIMEOUT
            if late or (
                waited > self.serving.body_patience and self.got < waited * BODY_RATE and self.serving.is_pressed()
            ):
                self._refuse(Bad(408, "The body of the request comes too slowly."))
                return
        elif self.phase <= STARTED and self.asked and now - self.asked > self.serving.timeout:
            self._too_late()
            return
        else:
            late = connection.eof and idle > GRACE
        if late:
            self.serving.close(connection)

    def _too_late(self) -> None:
        timeout = f"{self.serving.timeout:g} s"
        where = f"{self.line.method} {self.line.path}"
        print(f"{where}: no answer within {timeout} ([limits] timeout); it was cancelled", file=sys.stderr)
        self._refuse(Bad(504, f"The program did not begin to answer within {timeout}."))
        if self.task is not None:
            self.task.cancel()

    def on_drain(self) -> None:
        """The response's head will say that the connection closes; a streaming one has 30 s."""
