"""A daemon's end of its channel to the bus: ask, tell, answer.

    peer = Peer(loop, channel)
    peer.on("log.open", OpenLog, open_log)            # async def open_log(asked) -> body | (body, fds) | None
    peer.on_event("web.died", Died, instance_died)
    answer = await peer.ask("catalogue.pack", GetPack(release), reply=PackReply)

Descriptors given to `ask` and `tell` are consumed; those in an Answer or an Asked belong to whoever got it.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar, overload

import msgspec

from fildes.kernel.fds import (
    Fd,
    Received,
    Truncated,
    close_all,
    receive_with_fds,
    send_with_fds,
    set_blocking,
)
from fildes.kernel.loop import EPOLLIN, EPOLLOUT, Loop, Promise, Timer
from fildes.wire import message
from fildes.wire.message import Event, Failure, Hello, Reply, Request

B = TypeVar("B")
S = TypeVar("S", bound=msgspec.Struct)

_REMEMBERED: Final = 512  # answers kept for requests that may come again after a restart of the bus
_ROUNDS: Final = 64  # datagrams read before other descriptors get their turn


class Empty(msgspec.Struct, forbid_unknown_fields=True):
    """A body without content."""


class Refused(Exception):
    """The answer is no: a code for programs, a sentence for people, the grant that would have allowed it."""

    def __init__(self, code: str, text: str, grant: str | None = None) -> None:
        super().__init__(text)
        self.code, self.text, self.grant = code, text, grant


class Answer(Generic[B]):
    __slots__ = ("body", "fds")

    def __init__(self, body: B, fds: list[Fd]) -> None:
        self.body, self.fds = body, fds


class Asked(Generic[B]):
    """A request or event as its handler sees it; the handler owns `fds`."""

    __slots__ = ("body", "fds", "sender")

    def __init__(self, body: B, fds: list[Fd], sender: str) -> None:
        self.body, self.fds, self.sender = body, fds, sender

    def take_fds(self, count: int) -> list[Fd]:
        """Exactly `count` descriptors, or a refusal."""
        if len(self.fds) != count:
            raise Refused("protocol", f"expected {count} descriptors beside the message, got {len(self.fds)}")
        fds, self.fds = self.fds, []
        return fds


class _Pending:
    __slots__ = ("data", "fds", "promise", "reply", "timer")

    def __init__(self, data: bytes, fds: Sequence[Fd], promise: Promise[Any], reply: Any, timer: Timer) -> None:
        self.data, self.fds, self.promise, self.reply, self.timer = data, fds, promise, reply, timer


class Peer:
    def __init__(self, loop: Loop, channel: Fd) -> None:
        self.loop = loop
        self._channel = channel
        self._requests: dict[str, tuple[Any, Callable[[Asked[Any]], Awaitable[Any]]]] = {}
        self._events: dict[str, tuple[Any, Callable[[Asked[Any]], object]]] = {}
        self._pending: dict[int, _Pending] = {}
        self._answered: OrderedDict[int, bytes | None] = OrderedDict()  # None: still being worked on
        self._outbox: deque[tuple[bytes, list[Fd]]] = deque()
        self._writing = False
        self._epoch: int | None = None
        # Ids of a restarted daemon must not meet those of its forerunner in a peer's memory.
        self._next_id = int.from_bytes(os.urandom(4), "little") << 7
        set_blocking(channel.fileno(), False)
        loop.watch(channel.fileno(), EPOLLIN, self._on_events)
        # The bus answers with its own, and asks again what a forerunner of ours was asked and did not answer.
        self._send(message.encode(Hello(message.VERSION, 0)), [])

    # — asking —

    @overload
    async def ask(
        self, verb: str, body: msgspec.Struct | None = ..., fds: Sequence[Fd] = ..., *, timeout: float = ...
    ) -> Answer[Empty]: ...

    @overload
    async def ask(
        self,
        verb: str,
        body: msgspec.Struct | None = ...,
        fds: Sequence[Fd] = ...,
        *,
        reply: type[S],
        timeout: float = ...,
    ) -> Answer[S]: ...

    async def ask(
        self,
        verb: str,
        body: msgspec.Struct | None = None,
        fds: Sequence[Fd] = (),
        *,
        reply: type[Any] = Empty,
        timeout: float = 30.0,
    ) -> Answer[Any]:
        """Send a request and wait for its answer. Raises Refused, also when `timeout` seconds pass without one."""
        self._next_id = self._next_id % message.MAX_ID + 1
        number = self._next_id
        promise: Promise[Answer[Any]] = Promise(self.loop)

        def too_late() -> None:
            text = f"{verb.partition('.')[0]} did not answer {verb!r} within {timeout:g} s; see: fildes ps --all"
            self._settle(number, Refused("timeout", text))

        try:
            data = message.encode(Request(number, verb, message.pack(body)))
        except ValueError as error:
            close_all(fds)
            raise Refused("too-large", str(error)) from error
        # Kept until the answer is there: after a restart of the bus they have to be sent again.
        self._pending[number] = _Pending(data, fds, promise, reply, self.loop.call_later(timeout, too_late))
        self._send(data, [fd.dup() for fd in fds])
        return await promise

    def tell(self, verb: str, body: msgspec.Struct | None = None, fds: Sequence[Fd] = ()) -> None:
        """Send an event; nobody answers."""
        self._send(message.encode(Event(verb, message.pack(body))), list(fds))

    # — answering —

    def on(self, verb: str, body: type[B], handler: Callable[[Asked[B]], Awaitable[Any]]) -> None:
        """Answer requests `verb`: the handler returns a Struct, (Struct, fds), or None; or raises Refused."""
        self._requests[verb] = (msgspec.msgpack.Decoder(body), handler)

    def on_event(self, verb: str, body: type[B], handler: Callable[[Asked[B]], object]) -> None:
        self._events[verb] = (msgspec.msgpack.Decoder(body), handler)

    # — the channel —

    def _on_events(self, events: int) -> None:
        if events & EPOLLOUT:
            self._flush()
        if not events & ~EPOLLOUT:
            return
        for _ in range(_ROUNDS):
            try:
                received = receive_with_fds(self._channel.fileno(), message.MAX_DATAGRAM, message.MAX_FDS)
            except BlockingIOError:
                return
            except Truncated as error:
                self.loop.on_error(error)
                continue
            if not received.data:
                # init keeps both ends of every channel: without the other end, init is gone and so are we.
                self.loop.unwatch(self._channel.fileno())
                self.loop.stop()
                return
            self._dispatch(received)

    def _dispatch(self, received: Received) -> None:
        fds = received.fds
        try:
            envelope = message.decode(received.data)
        except message.Malformed as error:
            close_all(fds)
            self.loop.on_error(error)
            return
        if isinstance(envelope, Reply | Failure):
            self._on_answer(envelope, fds)
        elif isinstance(envelope, Request):
            self._on_request(envelope, fds)
        elif isinstance(envelope, Event):
            self._on_event(envelope, fds)
        else:
            close_all(fds)
            self._on_hello(envelope)

    def _on_hello(self, hello: Hello) -> None:
        if self._epoch is not None and hello.epoch != self._epoch:
            for pending in self._pending.values():
                self._send(pending.data, [fd.dup() for fd in pending.fds])
        self._epoch = hello.epoch

    def _on_answer(self, answer: Reply | Failure, fds: list[Fd]) -> None:
        pending = self._pending.get(answer.id)
        if pending is None:  # it came after its time, or a second time
            close_all(fds)
        elif isinstance(answer, Failure):
            close_all(fds)
            self._settle(answer.id, Refused(answer.code, answer.text, answer.grant))
        else:
            try:
                body = msgspec.msgpack.decode(answer.body, type=pending.reply)
            except msgspec.MsgspecError as error:
                close_all(fds)
                self._settle(answer.id, Refused("protocol", f"the answer is not a {pending.reply.__name__}: {error}"))
            else:
                self._settle(answer.id, Answer(body, fds))

    def _settle(self, number: int, result: Answer[Any] | Refused) -> None:
        pending = self._pending.pop(number)
        pending.timer.cancel()
        close_all(pending.fds)
        if isinstance(result, Refused):
            pending.promise.fail(result)
        else:
            pending.promise.resolve(result)

    def _on_request(self, request: Request, fds: list[Fd]) -> None:
        if request.id in self._answered:
            close_all(fds)
            again = self._answered[request.id]
            if again is not None:
                self._send(again, [])
            return
        decoder, handler = self._requests.get(request.verb, (None, None))
        if decoder is None or handler is None:
            close_all(fds)
            self._answer_failure(request.id, "unknown-verb", f"nothing here answers {request.verb!r}")
            return
        try:
            asked = Asked(decoder.decode(request.body), fds, request.sender)
        except msgspec.MsgspecError as error:
            close_all(fds)
            self._answer_failure(request.id, "malformed", f"{request.verb}: {error}")
            return
        self._answered[request.id] = None
        while len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        self.loop.spawn(self._answer(request.id, asked, handler))

    async def _answer(self, number: int, asked: Asked[Any], handler: Callable[[Asked[Any]], Awaitable[Any]]) -> None:
        try:
            result = await handler(asked)
        except Refused as refused:
            self._answer_failure(number, refused.code, refused.text, refused.grant)
        except Exception as error:
            self._answer_failure(number, "internal", f"{type(error).__name__}: {error}")
            self.loop.on_error(error)
        else:
            body, fds = result if isinstance(result, tuple) else (result, [])
            try:
                data = message.encode(Reply(number, message.pack(body)))
            except ValueError as error:
                close_all(fds)
                self._answer_failure(number, "too-large", str(error))
                return
            self._remember(number, data, with_fds=bool(fds))
            self._send(data, fds)
        finally:
            close_all(asked.fds)

    def _answer_failure(self, number: int, code: str, text: str, grant: str | None = None) -> None:
        data = message.encode(Failure(number, code, text[:32768], grant))
        self._remember(number, data, with_fds=False)
        self._send(data, [])

    def _remember(self, number: int, data: bytes, *, with_fds: bool) -> None:
        if with_fds:  # descriptors can't be kept for an asker who may never come: the handler opens them again
            self._answered.pop(number, None)
        elif number in self._answered:
            self._answered[number] = data

    def _on_event(self, event: Event, fds: list[Fd]) -> None:
        decoder, handler = self._events.get(event.verb, (None, None))
        try:
            if decoder is None or handler is None:
                raise ValueError(f"an event that nothing here expects: {event.verb!r} from {event.sender!r}")
            asked = Asked(decoder.decode(event.body), fds, event.sender)
        except (msgspec.MsgspecError, ValueError) as error:
            close_all(fds)
            self.loop.on_error(error)
            return
        try:
            handler(asked)
        finally:
            close_all(asked.fds)

    def _send(self, data: bytes, fds: list[Fd]) -> None:
        self._outbox.append((data, fds))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        channel = self._channel.fileno()
        while self._outbox:
            data, fds = self._outbox[0]
            try:
                send_with_fds(channel, data, [fd.fileno() for fd in fds])
            except BlockingIOError:
                if not self._writing:
                    self._writing = True
                    self.loop.rewatch(channel, EPOLLIN | EPOLLOUT)
                return
            except (BrokenPipeError, ConnectionResetError):
                pass  # init is gone; the read side says so next
            self._outbox.popleft()
            close_all(fds)
        if self._writing:
            self._writing = False
            self.loop.rewatch(channel, EPOLLIN)
