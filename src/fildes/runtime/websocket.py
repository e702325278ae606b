"""One WebSocket, as an ASGI program sees it (RFC 6455; ASGI 3.0, WebSocket message format 2.3).

The frames are wsproto's, without I/O; the handshake is read off the head like any other. Compression is not offered:
its windows take 300 KiB a connection, of a limit that is often 64 MiB.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import io
import re
import sys
import traceback
from asyncio import CancelledError, Future, Task
from collections import deque
from select import EPOLLIN
from typing import TYPE_CHECKING, Any

from fildes.runtime.connection import ClientGone, Connection
from fildes.runtime.exchange import ASGI, Message
from fildes.runtime.keeping import COMPLETE, WAITING
from fildes.runtime.response import prepare
from fildes.wire.http import HEAD_LIMIT, Bad, Fields, Line

if TYPE_CHECKING:
    from fildes.runtime.loop import Serving

OPEN, CLOSING = 4, 5  # besides WAITING for the program to accept, and COMPLETE

MESSAGE_LIMIT = 16 * 1024 * 1024  # bytes of one message
AHEAD = 32  # messages received before the program asks for them
AHEAD_BYTES = 1024 * 1024  # of them together: the last of them may go beyond
CLOSE_TIMEOUT = 2.0  # s for the client to answer a Close
PING_AFTER = 30.0  # s of silence, after which the client is asked whether it lives; as long again for its answer
WRITE_TIMEOUT = 60.0  # s without a byte taken by the client

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch

_wsproto: Any = None
_events: Any = None


def bring(needed: bool = False) -> bool:
    """Import wsproto, in the zygote, as a copy of ours: the program may import a version of its own afterwards."""
    global _wsproto, _events
    if _wsproto is None:
        before = set(sys.modules)
        try:
            _wsproto = importlib.import_module("wsproto.connection")
            _events = importlib.import_module("wsproto.events")
        except ImportError:
            if needed:
                raise
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("wsproto", "h11"):
                del sys.modules[name]
    return _wsproto is not None


def _may_be_sent(code: Any) -> bool:
    """Of a Close: what RFC 6455 7.4 and its registry name, but for those that only say what happened."""
    return isinstance(code, int) and (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999)


class WebSocket:
    __slots__ = (
        "accepted",
        "ahead",
        "asleep",
        "began",
        "connected",
        "connection",
        "frames",
        "gone",
        "incoming",
        "key",
        "offered",
        "parts",
        "phase",
        "pinged",
        "pong",
        "prepared",
        "reason",
        "serving",
        "size",
        "status",
        "task",
        "version",
        "waiters",
    )

    def __init__(self, serving: Serving, connection: Connection, fields: Fields) -> None:
        self.serving = serving
        self.connection = connection
        self.task: Task[None] | None = None
        self.phase = WAITING
        self.frames: Any = None
        self.incoming: deque[Message] = deque()
        self.ahead = 0  # bytes or characters in `incoming`
        self.parts: Any = None  # a message that is not complete: bytearray or StringIO
        self.size = 0  # bytes of it
        self.began = serving.time()
        self.waiters: list[Future[None]] | None = None
        self.connected = False  # the program has been told of the connection
        self.accepted = False
        self.asleep = False  # not reading: the program has enough to do
        self.gone = False
        self.pinged = False
        self.pong: Any = None  # the answer to the latest ping, while the client does not take what was written before
        self.prepared: Any = None  # of a response in place of the handshake
        self.status, self.reason = 1006, ""  # how it ended
        self.key = b""
        self.offered: list[str] = []
        self.version = b""
        for name, value in fields.headers:
            if name == b"sec-websocket-key":
                self.key = value if _key(value) and not self.key else b""
            elif name == b"sec-websocket-version":
                self.version = value
            elif name == b"sec-websocket-protocol":
                self.offered += [word.strip() for word in value.decode("latin-1").split(",") if word.strip()]
        if self.version != b"13" or fields.chunked or fields.content_length:
            self.key = b""

    def scope(self, line: Line, fields: Fields, root: str) -> dict[str, Any]:
        return {
            "type": "websocket",
            "asgi": ASGI,
            "http_version": line.version,
            "server": self.serving.address,
            "client": self.connection.client,
            "scheme": "wss" if self.connection.scheme == "https" else "ws",
            "root_path": root,
            "path": line.path,
            "raw_path": line.raw_path,
            "query_string": line.query,
            "headers": fields.headers.copy(),
            "subprotocols": self.offered,
            "state": self.serving.state.copy(),
            "extensions": {"websocket.http.response": {}},
        }

    async def run(self, scope: dict[str, Any]) -> None:
        try:
            await self.serving.program(scope, self.receive, self.send)
            if self.phase == WAITING and not self.gone:
                raise RuntimeError("the program returned without accepting or closing the WebSocket")
            self._close(1000, "")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failed(error, scope)
        finally:
            self.task = None
            if self.accepted:
                self.serving.sockets -= 1
                self.serving.ending.quieten()
            else:
                self.serving.ended()

    # What the program calls

    async def receive(self) -> Message:
        if not self.connected:
            self.connected = True
            return {"type": "websocket.connect"}
        while not self.incoming:
            if self.gone or self.phase in (CLOSING, COMPLETE):
                return {"type": "websocket.disconnect", "code": self.status, "reason": self.reason}
            waiter = self.serving.loop.create_future()
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(waiter)
            await waiter
        message = self.incoming.popleft()
        self.ahead -= len(message.get("text") or message.get("bytes") or b"")
        if self.asleep and len(self.incoming) < AHEAD // 2 and self.ahead < AHEAD_BYTES // 2:
            self.asleep = False
            self.connection.watch_also(EPOLLIN)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.phase == OPEN:
            if kind == "websocket.send":
                text = message.get("text")
                event = _events.TextMessage(text) if text is not None else _events.BytesMessage(message["bytes"])
                await self._write(self.frames.send(event))
                return
            if kind == "websocket.close":
                code = message.get("code") or 1000
                if not _may_be_sent(code):
                    raise RuntimeError(f"a WebSocket can't be closed with the code {code!r} (RFC 6455 7.4)")
                self._close(code, message.get("reason") or "")
                return
        elif self.phase == WAITING:
            if kind == "websocket.accept":
                await self._accept(message)
                return
            if kind == "websocket.close":
                self.phase = COMPLETE
                self.serving.refuse(self.connection, Bad(403, "The WebSocket was not accepted."))
                return
            if kind == "websocket.http.response.start" and self.prepared is None:
                self.prepared = prepare(message["status"], message.get("headers", ()))
                return
            if kind == "websocket.http.response.body" and self.prepared is not None:
                await self._deny(message)
                return
        elif self.gone or self.phase in (CLOSING, COMPLETE):
            if kind == "websocket.send":
                raise ClientGone("the WebSocket is closed")
            if kind == "websocket.close":
                return
        raise RuntimeError(f"{kind!r} can't be sent on a WebSocket in this state")

    async def _accept(self, message: Message) -> None:
        accept = base64.b64encode(hashlib.sha1(self.key + _GUID, usedforsecurity=False).digest())
        lines = [
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n",
            b"sec-websocket-accept: " + accept + b"\r\n",
        ]
        chosen = message.get("subprotocol")
        if chosen is not None:
            if chosen not in self.offered:
                raise RuntimeError(f"the client did not offer the subprotocol {chosen!r}")
            lines.append(f"sec-websocket-protocol: {chosen}\r\n".encode("latin-1"))
        # `prepare` checks them; its status line is not used.
        lines.append(prepare(200, message.get("headers") or ()).text.partition(b"\r\n")[2])
        self.frames = _wsproto.Connection(_wsproto.ConnectionType.SERVER)
        self.phase = OPEN
        self.accepted = True
        self.serving.sockets += 1
        self.serving.ended()  # an open WebSocket takes no place from requests
        await self._write(b"".join(lines) + b"\r\n")
        connection = self.connection
        connection.since = self.serving.time()
        connection.watch_also(EPOLLIN)
        data, connection.buffer = connection.buffer, b""
        if data:
            self._received(data)

    async def _deny(self, message: Message) -> None:
        body = bytes(message.get("body", b""))
        if self.parts is not None:
            body = self.parts + body
        if message.get("more_body", False):
            self.parts = body
            return
        self.phase = COMPLETE
        length = b"" if self.prepared.length is not None else b"content-length: %d\r\n" % len(body)
        await self._write(self.prepared.text + length + b"connection: close\r\n\r\n" + body)
        self.serving.linger(self.connection)

    async def _write(self, data: bytes) -> None:
        if not self.connection.write(data):
            await self.connection.written()

    # What the connection reports

    def settle(self) -> None:
        if not self.gone and self.connection.mask < 0:
            self.connection.watch(EPOLLIN)

    def on_readable(self) -> None:
        connection = self.connection
        if self.phase == WAITING:
            connection.look_ahead(HEAD_LIMIT)
            if connection.eof:
                self.serving.close(connection)
            return
        data = connection.read()
        if data:
            connection.since = self.serving.time()
            self.pinged = False
            self._received(data)
        elif data is not None:
            self.serving.close(connection)

    def _received(self, data: bytes) -> None:
        try:
            self.frames.receive_data(data)
            for event in self.frames.events():
                self._on_frame(event)
                if self.gone or self.frames.state is _wsproto.ConnectionState.CLOSED:
                    break
        except ClientGone:
            return
        if (len(self.incoming) >= AHEAD or self.ahead >= AHEAD_BYTES) and not self.asleep:
            self.asleep = True
            self.connection.watch(self.connection.mask & ~EPOLLIN)

    def _on_frame(self, event: Any) -> None:
        if isinstance(event, _events.Message):
            if self.phase != OPEN:
                return
            self._on_piece(event)
        elif isinstance(event, _events.Ping):
            if self.phase == OPEN and self.connection.out is None:
                self.connection.write(self.frames.send(event.response()))
            else:  # RFC 6455 5.5.3: only the latest needs an answer
                self.pong = event.response()
        elif isinstance(event, _events.CloseConnection):
            self.status, self.reason = int(event.code), event.reason or ""
            state = self.frames.state
            if state in (_wsproto.ConnectionState.OPEN, _wsproto.ConnectionState.REMOTE_CLOSING):
                # OPEN: what came was no frame, and the code says what was wrong with it.
                self.connection.write(self.frames.send(event.response()))
            self.phase = COMPLETE
            self._wake()
            self.serving.linger(self.connection)

    def _on_piece(self, event: Any) -> None:
        piece = event.data
        text = isinstance(piece, str)
        self.size += len(piece) if not text or piece.isascii() else len(piece.encode())
        if self.size > MESSAGE_LIMIT:
            self.parts = None
            self._close(1009, f"a message of more than {MESSAGE_LIMIT} bytes")
            return
        if not event.message_finished or self.parts is not None:
            # Not a list: a client that sends a message byte by byte would take fifty times as much of our memory.
            if self.parts is None:
                self.parts = io.StringIO() if text else bytearray()
            if text:
                self.parts.write(piece)
            else:
                self.parts += piece
        if not event.message_finished:
            return
        if self.parts is not None:
            piece = self.parts.getvalue() if text else self.parts
        self.parts, self.size = None, 0
        self.ahead += len(piece)
        self.incoming.append(
            {"type": "websocket.receive", "text": piece}
            if text
            else {"type": "websocket.receive", "bytes": bytes(piece)}
        )
        self._wake()

    def _close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; the client has CLOSE_TIMEOUT for its part."""
        if self.phase != OPEN or self.gone:
            return
        self.phase = CLOSING
        self.status, self.reason = code, reason
        self.connection.since = self.serving.time()
        try:
            # 123 bytes are what a control frame has room for.
            reason = reason.encode()[:123].decode("utf-8", "ignore")
            self.connection.write(self.frames.send(_events.CloseConnection(code, reason)))
        except ClientGone:
            return
        self.connection.watch_also(EPOLLIN)
        self._wake()

    def _failed(self, error: BaseException, scope: dict[str, Any]) -> None:
        if not isinstance(error, CancelledError | ClientGone) and not (self.gone and isinstance(error, OSError)):
            print(f"WebSocket {scope['path']} failed:", file=sys.stderr)
            traceback.print_exception(error, file=sys.stderr)
        if self.gone:
            return
        if self.phase == WAITING:
            self.phase = COMPLETE
            self.serving.refuse(self.connection, Bad(500, "The program failed; its log says why."))
        else:
            self._close(1011, "")

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def on_written(self) -> None:
        pong, self.pong = self.pong, None
        if pong is not None and self.phase == OPEN:
            with contextlib.suppress(ClientGone):
                self.connection.write(self.frames.send(pong))

    def on_gone(self) -> None:
        self.gone = True
        self.phase = COMPLETE
        self._wake()

    def on_sweep(self, now: float) -> None:
        idle = now - self.connection.since
        if self.phase == CLOSING:
            late = idle > CLOSE_TIMEOUT
        elif self.connection.out is not None:
            late = idle > WRITE_TIMEOUT
        elif self.phase == OPEN and not self.asleep and idle > PING_AFTER:
            late = self.pinged and idle > 2 * PING_AFTER
            if not self.pinged:
                self.pinged = True
                try:
                    self.connection.write(self.frames.send(_events.Ping()))
                except ClientGone:
                    return
        elif self.phase == WAITING and now - self.began > self.serving.timeout:
            self.phase = COMPLETE
            print(f"WebSocket: not accepted within {self.serving.timeout:g} s ([limits] timeout)", file=sys.stderr)
            self.serving.refuse(self.connection, Bad(504, "The program did not accept the WebSocket in time."))
            self._wake()
            if self.task is not None:
                self.task.cancel()
            return
        else:
            late = False
        if late:
            self.serving.close(self.connection)

    def on_drain(self) -> None:
        self._close(1001, "the service is going away")
