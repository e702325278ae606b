"""One HTTP request and its response, as a WSGI program sees them (PEP 3333).

All of it runs in one thread, which blocks where the program waits: for a body, or for a client that reads slowly. The
thread is the leader while `inline`. Another one's thread touches nothing of the connection but its descriptor, its
`buffer` and `eof`; whatever is to become of it afterwards is left to the leader (`Serving.post`).
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any

from fildes.runtime import wsgi_crew, wsgi_head
from fildes.runtime.connection import ClientGone, send_last
from fildes.runtime.framing import Framing
from fildes.runtime.keeping import COMPLETE, STARTED, STREAMING, WAITING
from fildes.wire.http import Bad, Fields, Line, Refused

BODY_TIMEOUT = 60.0  # s without a byte of a body that the program waits for
BODY_RATE = 256.0  # bytes/s: the least that a body must bring where requests have taken most places
WRITE_TIMEOUT = 60.0  # s without a byte taken by the client
PATIENCE = 10.0  # s for either, where requests have taken most places
_LOOK = 2000  # ms between looks at whether they have


class BodyRefused(OSError):
    """The request's body can't be read, or is too large: the client is told, whatever the program answers."""


class Call(Framing):
    serving: Any
    connection: Any

    __slots__ = ("abandoned", "armed", "begun", "got", "inline", "limit", "refused", "since")

    def __init__(self, serving: Any, connection: Any, line: Line, fields: Fields) -> None:
        super().__init__(serving, connection, line, fields)
        self.inline = True  # this thread leads, as far as it knows
        self.armed = False  # it is in the slot, likewise
        self.begun = False  # the answer
        self.abandoned = False  # the client was told that it takes too long
        self.refused: Bad | None = None  # what the client is told about its body
        self.got = 0  # bytes of body
        self.limit: int = serving.body_limit
        self.since = 0.0  # when the lead was lost

    def run(self, environ: dict[str, Any]) -> None:
        """Answer the request. Afterwards `inline` says whether this thread still leads."""
        result: Any = None
        try:
            result = self.serving.program(environ, self.start_response)
            if type(result) is list and len(result) == 1 and self.phase == STARTED:
                self._end(self._whole(result[0]))
            else:
                self._iterate(result)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failed(error, environ)
        if hasattr(result, "close"):
            self._go_on()
            try:
                result.close()
            except Exception as error:
                self._report(error, environ)
        self._retract()

    # What the program calls

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self.phase not in (WAITING, STARTED):
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it holds this frame
        elif self.phase != WAITING:
            raise RuntimeError("start_response was called before, and this time without exc_info")
        self.prepared = wsgi_head.of(status, headers)
        self.phase = STARTED
        return self.write

    def write(self, data: bytes) -> None:
        """What start_response returns."""
        self._piece(data)

    def more(self) -> bytes:
        """The next piece of the request's body; b"" at its end."""
        connection = self.connection
        while self.reader is not None:
            if self.refused is not None:
                raise BodyRefused(self.refused.sentence)
            data, connection.buffer = connection.buffer, b""
            if not data:
                data = self._receive()
            try:
                body = self.reader.feed(data)
                self.got += len(body)
                if self.got > self.limit:
                    raise Refused(413, f"The body of the request is larger than {self.limit} bytes.")
            except Refused as refused:
                self.refused = refused.bad
                continue
            self.expect = False
            if self.reader.done:
                connection.buffer = self.reader.rest
                self.reader = None
            if body:
                return body
        return b""

    # The request's body

    def _receive(self) -> bytes:
        """Some bytes, for which this thread waits. Raises ClientGone, BodyRefused."""
        fd = self.connection.fd
        if self.expect:
            self.expect = False
            if self.phase == WAITING and not self.abandoned:
                self._try(b"HTTP/1.1 100 Continue\r\n\r\n")
        began = 0.0
        while not self.connection.eof and not self.abandoned:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                now = wsgi_crew.now()
                began = began or now
                if now - began > BODY_TIMEOUT or (
                    now - began > PATIENCE and self.serving.is_pressed() and self.got < (now - self.since) * BODY_RATE
                ):
                    self.refused = Bad(408, "The body of the request comes too slowly.")
                    raise BodyRefused(self.refused.sentence) from None
                self._wait(select.POLLIN)
                continue
            except OSError:
                break
            if data:
                return data
            break
        self.connection.eof = True
        raise ClientGone("the client has closed the connection")

    def _wait(self, events: int) -> None:
        poll = select.poll()
        poll.register(self.connection.fd, events)
        poll.poll(_LOOK)

    # The response

    def _iterate(self, result: Any) -> None:
        if type(result) in (list, tuple) and self.phase == STARTED:
            self._end(self._whole(b"".join(result)))
            return
        only = hasattr(result, "__len__") and len(result) == 1
        for piece in result:
            if not piece:
                continue
            if only and self.phase == STARTED:
                self._end(self._whole(piece))
                self._go_on()
            else:
                self._piece(piece)
        if self.phase == WAITING:
            raise RuntimeError("the program returned without having called start_response")
        if self.phase == STARTED:
            # Of a HEAD the length may be unknown.
            self._end(self._first(b"") if self.head_only else self._whole(b""))
        elif self.phase == STREAMING:
            self._end(self._next(b"", False))

    def _piece(self, data: bytes) -> None:
        """Send a piece of the body on its way."""
        if not data:
            return
        if self.phase == STARTED:
            if self.prepared.length == len(data):
                self._end(self._whole(data))
                self._go_on()
                return
            self._open(self._first(data))
        elif self.phase == STREAMING:
            framed = self._next(data, True)
            if self.left == 0:
                self._end(framed)
                self._go_on()
            elif framed:
                self._push(framed)
        elif self.phase == WAITING:
            raise RuntimeError("there is a body before start_response was called")
        elif not self.head_only and not self.prepared.bodyless:
            raise RuntimeError("the response has more bytes of body than its content-length says")

    def _claim(self) -> None:
        """Before the first byte of an answer: it is ours to give. Raises ClientGone, BodyRefused."""
        self._retract()
        if not self.inline:
            with self.serving.crew.lock:
                if self.abandoned:
                    raise ClientGone("the client was told that it takes too long")
                self.begun = self.refused is None
        if self.refused is not None:
            raise BodyRefused(self.refused.sentence)
        self.begun = True

    def _retract(self) -> None:
        """From here on the lead is not taken away, unless it was."""
        if self.armed:
            self.armed = False
            try:
                self.serving.crew.slot.remove(self)
            except ValueError:
                self.inline = False
                with self.serving.crew.lock:  # until whoever took it has finished
                    return

    def _go_on(self) -> None:
        """The program's code runs again: the lead may be taken away."""
        if self.inline and not self.armed:
            self.armed = True
            self.serving.crew.slot.append(self)

    def _open(self, data: bytes) -> None:
        """The first bytes of an answer of which more will come."""
        self._claim()
        rest = self._try(data)
        self.serving.tell(self.connection)
        if self.inline:
            self.serving.belt.flush()
        else:
            self.serving.post(self.serving.belt.flush)
        self._go_on()
        if rest:
            self._push(rest)

    def _push(self, data: bytes | memoryview) -> None:
        """Send, and wait until the client has taken it. Raises ClientGone."""
        began = 0.0
        while True:
            before = len(data)
            data = self._try(data)
            if not data:
                return
            now = wsgi_crew.now()
            if not began or len(data) < before:
                began = now
            elif now - began > (PATIENCE if self.serving.is_pressed() else WRITE_TIMEOUT):
                raise ClientGone("the client does not read")
            self._wait(select.POLLOUT)

    def _try(self, data: bytes | memoryview, *, last: bool = False) -> bytes | memoryview:
        """What could not be written without waiting."""
        fd = self.connection.fd
        try:
            written = os.write(fd, data) if not last else send_last(fd, data)
        except BlockingIOError:
            return data
        except OSError as error:
            self.connection.eof = True
            raise ClientGone("the client has closed the connection") from error
        return b"" if written == len(data) else memoryview(data)[written:]

    def _end(self, data: bytes) -> None:
        """The last bytes of an answer. What the client does not take at once is left to the leader."""
        if self.begun:
            self._retract()
        else:
            self._claim()
        connection, serving = self.connection, self.serving
        rest = self._try(data, last=not self.keep and self.reader is None and bool(data) and not connection.buffer)
        self.phase = COMPLETE
        if self.inline:
            serving.written(connection, rest, self.keep, self.reader)
        else:
            serving.post(lambda: serving.written(connection, rest, self.keep, self.reader))

    def _failed(self, error: BaseException, environ: dict[str, Any]) -> None:
        if not isinstance(error, ClientGone | BodyRefused):
            self._report(error, environ)
        if self.phase == COMPLETE:
            return
        self._retract()
        self.phase = COMPLETE
        connection, serving = self.connection, self.serving
        bad = self.refused or Bad(500, "The program failed; its log says why.")
        if self.begun or isinstance(error, ClientGone):
            # Whatever was sent is not the whole: only an abrupt end says so.
            act: Callable[[], None] = lambda: serving.close(connection)  # noqa: E731
        else:
            act = lambda: serving.refuse(connection, bad, self.head_only)  # noqa: E731
        if self.inline:
            act()
        else:
            serving.post(act)

    def _report(self, error: BaseException, environ: dict[str, Any]) -> None:
        print(f"{environ.get('REQUEST_METHOD')} {environ.get('PATH_INFO')!r} failed:", file=sys.stderr)
        traceback.print_exception(error, file=sys.stderr)

    # What the crew and the connection call

    def lose(self, now: float) -> None:
        self.since = self.since or now
        if self.phase != COMPLETE:
            self.connection.park()
            self.serving.calls.add(self)

    def on_readable(self) -> None:
        """Not while the leader is in the call, and not while the connection is parked."""
        self.connection.watch(0)

    def on_gone(self) -> None: ...

    def on_sweep(self, now: float) -> None: ...

    def on_drain(self) -> None: ...
