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
from fildes.debug.access import is_operator
from fildes.kernel import credentials, memfd
from fildes.kernel.fds import Fd, Truncated, close_all, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN, EPOLLOUT, EPOLLRDHUP, Loop, Task
from fildes.wire.debug import MAX_DATAGRAM, MAX_FDS, MAX_INLINE, Answer, Ask, Failed, Note

MAX_CONNECTIONS: Final = 64
MAX_OF_ONE: Final = 8  # of them, for one that is no operator
MAX_OF_OTHERS: Final = 40  # of them, for all who are no operators: those shall always get in
MAX_ASKS: Final = 16  # at once on a connection
MAX_QUEUED: Final = 256  # messages to one that does not read

_decoder = msgspec.msgpack.Decoder(Ask)
_encoder = msgspec.msgpack.Encoder()

Handler = Callable[["Call"], Awaitable[tuple[Any, Sequence[Fd]]]]
OwnerOf = Callable[[int], Awaitable[str | None]]  # uid → the owner that it stands for


class Call:
    """One question. The handler owns `fds`; what it leaves is closed. `on_gone`: the asker went away.

    `owner` is who asks; None: an operator.
    """

    __slots__ = ("_connection", "_id", "body", "fds", "on_gone", "owner")

    def __init__(self, connection: Connection, ask: Ask, fds: list[Fd], owner: str | None) -> None:
        self._connection, self._id = connection, ask.id
        self.body, self.fds, self.owner = ask.body, fds, owner
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
    """Owns `listener`. `verbs`: word → handler. Only operators and owners are let in."""

    def __init__(
        self, loop: Loop, listener: Fd, verbs: dict[str, Handler], owner_of: OwnerOf, operator: int, overflow: int
    ) -> None:
        self.loop, self.verbs = loop, verbs
        self._listener, self._owner_of, self._operator, self._overflow = listener, owner_of, operator, overflow
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
        connection = Connection(self, fd, uid, operator=is_operator(uid, self._operator, self._overflow))
        self._open.add(connection)
        if len(self._open) > MAX_CONNECTIONS:
            connection.refuse("busy", f"{MAX_CONNECTIONS} are connected already; try again in a moment")
        elif connection.operator:
            connection.let_in(None)
        elif sum(not other.operator for other in self._open) > MAX_OF_OTHERS:
            connection.refuse("busy", f"{MAX_OF_OTHERS} connections of owners are open already; try again in a moment")
        elif sum(other.uid == uid for other in self._open) > MAX_OF_ONE:
            connection.refuse("busy", f"{MAX_OF_ONE} connections of uid {uid} are open already; try again in a moment")
        else:
            self.loop.spawn(self._let_in_owner(connection))

    async def _let_in_owner(self, connection: Connection) -> None:
        try:
            owner = await self._owner_of(connection.uid) if connection.uid != self._overflow else None
        except Refused as refused:
            connection.refuse("busy", f"it can't be looked up now who you are: {refused.text}; ask again")
            return
        if owner is not None:
            connection.let_in(owner)
            return
        text = f"uid {connection.uid} is no operator of this node, and owns nothing on it"
        remedy = "ask as root or as the user who ran `fildes up`, or have them say: fildes owner add NAME USER"
        connection.refuse("not-allowed", f"{text}: {remedy}")

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)

    def close(self) -> None:
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self._open):
            connection.close()


class Connection:
    """Nothing is read from it before `let_in`."""

    def __init__(self, door: Door, fd: Fd, uid: int, *, operator: bool) -> None:
        self._door, self._fd, self.uid, self.operator = door, fd, uid, operator
        self._admitted = False
        self._owner: str | None = None
        self._tasks: dict[int, tuple[Task[None], Call]] = {}
        self._outbox: deque[tuple[bytes, list[Fd]]] = deque()
        self._closing = False
        self._events = 0
        door.loop.watch(fd.fileno(), self._events, self._ready)

    def let_in(self, owner: str | None) -> None:
        """Answer it; `owner` None: an operator."""
        self._admitted, self._owner = True, owner
        if not self._fd.closed:
            self._flush()

    def refuse(self, code: str, text: str) -> None:
        """Say why nothing will be answered here, and close."""
        if self._fd.closed:
            return
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
        if events & ~EPOLLOUT and not self._fd.closed and self._admitted and not self._closing:
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
        call = Call(self, ask, received.fds, self._owner)
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
