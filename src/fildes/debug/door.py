"""The control socket: accepts, asks the kernel who it is, reads questions, writes answers.

A connection that asks more than its share waits; one that does not read its answers is closed. Nothing that comes in
here is believed but the peer's uid.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from fildes.daemon.peer import Refused
from fildes.debug.access import role_of
from fildes.kernel import credentials, memfd
from fildes.kernel.fds import Fd, Truncated, close_all, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN, EPOLLOUT, EPOLLRDHUP, Loop, Task
from fildes.wire.debug import MAX_DATAGRAM, MAX_FDS, MAX_INLINE, Answer, Ask, Failed, Note

MAX_CONNECTIONS: Final = 64
MAX_ASKS: Final = 16  # at once on a connection
MAX_QUEUED: Final = 256  # messages to one that does not read

_decoder = msgspec.msgpack.Decoder(Ask)
_encoder = msgspec.msgpack.Encoder()

Handler = Callable[["Call"], Awaitable[tuple[Any, Sequence[Fd]]]]


class Call:
    """One question. The handler owns `fds`; what it leaves is closed. `on_gone`: the asker went away."""

    __slots__ = ("_connection", "_id", "body", "fds", "on_gone", "role")

    def __init__(self, connection: Connection, ask: Ask, fds: list[Fd], role: str) -> None:
        self._connection, self._id = connection, ask.id
        self.body, self.fds, self.role = ask.body, fds, role
        self.on_gone: Callable[[], object] = lambda: None

    def read(self, kind: type[Any]) -> Any:
        """The body as `kind`. Raises Refused."""
        try:
            return msgspec.msgpack.decode(self.body, type=kind)
        except msgspec.MsgspecError as error:
            raise Refused("malformed", f"{error}; is this CLI of the node's version?") from error

    def take_fds(self, count: int) -> list[Fd]:
        if len(self.fds) != count:
            raise Refused("malformed", f"expected {count} descriptors with this question, got {len(self.fds)}")
        fds, self.fds = self.fds, []
        return fds

    def note(self, phase: str, text: str, ms: float) -> None:
        self._connection.send(Note(self._id, phase, text, ms))


class Door:
    """Owns `listener`. `verbs`: word → handler. Only uids with a role are let in."""

    def __init__(self, loop: Loop, listener: Fd, verbs: dict[str, Handler], operator: int, overflow: int) -> None:
        self.loop, self.verbs = loop, verbs
        self._listener, self._operator, self._overflow = listener, operator, overflow
        self._open: set[Connection] = set()
        os.set_blocking(listener.fileno(), False)
        loop.watch(listener.fileno(), EPOLLIN, self._accept)

    def _accept(self, _: int) -> None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self._listener.fileno())
        try:
            sock, _ = listening.accept()
        except OSError:
            return  # it went away, or there is no descriptor left: it is tried again when somebody comes
        finally:
            listening.detach()
        fd = Fd(sock.detach())
        os.set_blocking(fd.fileno(), False)
        uid = credentials.of_peer(fd.fileno()).uid
        role = role_of(uid, self._operator, self._overflow)
        connection = Connection(self, fd, role or "")
        self._open.add(connection)
        if role is None:
            text = f"uid {uid} is no operator of this node: ask as root, or as the user who ran `fildes up`"
            connection.refuse("not-allowed", text)
        elif len(self._open) > MAX_CONNECTIONS:
            connection.refuse("busy", f"{MAX_CONNECTIONS} operators are connected already; try again in a moment")

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)

    def close(self) -> None:
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self._open):
            connection.close()


class Connection:
    def __init__(self, door: Door, fd: Fd, role: str) -> None:
        self._door, self._fd, self._role = door, fd, role
        self._tasks: dict[int, tuple[Task[None], Call]] = {}
        self._outbox: deque[tuple[bytes, list[Fd]]] = deque()
        self._closing = False
        self._events = EPOLLIN | EPOLLRDHUP
        door.loop.watch(fd.fileno(), self._events, self._ready)

    def refuse(self, code: str, text: str) -> None:
        """Say why nothing will be answered here, and close."""
        self._closing = True
        self.send(Failed(0, code, text))

    def close(self) -> None:
        if self._fd.closed:
            return
        self._door.loop.unwatch(self._fd.fileno())
        self._fd.close()
        for _, fds in self._outbox:
            close_all(fds)
        self._outbox.clear()
        for _, call in list(self._tasks.values()):
            call.on_gone()
        self._door.closed(self)

    def send(self, message: Answer | Failed | Note, fds: Sequence[Fd] = ()) -> None:
        """Queue `message` with `fds` (consumed)."""
        if self._fd.closed or len(self._outbox) >= MAX_QUEUED:
            close_all(fds)
            self.close()
            return
        self._outbox.append((_encoder.encode(message), list(fds)))
        self._flush()

    # — the socket —

    def _ready(self, events: int) -> None:
        if events & EPOLLOUT:
            self._flush()
        if events & ~EPOLLOUT and not self._fd.closed and not self._closing:
            self._receive()
        elif events & ~EPOLLOUT:
            self.close()

    def _receive(self) -> None:
        try:
            received = receive_with_fds(self._fd.fileno(), MAX_DATAGRAM, MAX_FDS)
        except BlockingIOError:
            return
        except Truncated as error:
            self.refuse("malformed", str(error))
            return
        except OSError:
            self.close()
            return
        if not received.data:
            self.close()
            return
        try:
            ask = _decoder.decode(received.data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            received.close()
            self.refuse("malformed", f"not a question of this version's protocol: {error}")
            return
        if ask.id in self._tasks or len(self._tasks) >= MAX_ASKS:
            received.close()
            self.send(Failed(ask.id, "busy", f"at most {MAX_ASKS} questions at once on a connection, each with its id"))
            return
        call = Call(self, ask, received.fds, self._role)
        self._tasks[ask.id] = (self._door.loop.spawn(self._answer(ask, call)), call)

    async def _answer(self, ask: Ask, call: Call) -> None:
        handler = self._door.verbs.get(ask.verb)
        try:
            if handler is None:
                known = ", ".join(sorted(self._door.verbs))
                raise Refused("unknown-verb", f"{ask.verb[:40]!r} is not a verb of this node; known are {known}")
            value, fds = await handler(call)
            self._reply(ask.id, value, list(fds))
        except Refused as refused:
            self.send(Failed(ask.id, refused.code, refused.text, refused.grant))
        except Exception as error:
            self._door.loop.on_error(error)
            self.send(Failed(ask.id, "internal", f"{type(error).__name__}: {error}; this is a fault of Fildes"))
        finally:
            self._tasks.pop(ask.id, None)
            close_all(call.fds)

    def _reply(self, number: int, value: Any, fds: list[Fd]) -> None:
        data = _encoder.encode(value)
        if len(data) > MAX_INLINE:
            empty = msgspec.Raw(_encoder.encode({}))
            self.send(Answer(number, empty, memfd=True), [*fds, memfd.sealed("answer", data)])
        else:
            self.send(Answer(number, msgspec.Raw(data)), fds)

    def _flush(self) -> None:
        while self._outbox:
            data, fds = self._outbox[0]
            try:
                send_with_fds(self._fd.fileno(), data, [fd.fileno() for fd in fds])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self._outbox.popleft()
            close_all(fds)
        if self._closing and not self._outbox:
            self.close()
            return
        events = EPOLLIN | EPOLLRDHUP | (EPOLLOUT if self._outbox else 0)
        if events != self._events:
            self._events = events
            self._door.loop.rewatch(self._fd.fileno(), events)
