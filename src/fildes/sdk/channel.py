"""A program's end of its channel to the bus: one request at a time or many, from threads and from event loops.

An answer is read by whoever waits at the moment, for all who wait. No more than WINDOW requests are with the bus at a
time, the others wait here: so the bus never has to refuse one for those before it.
"""

from __future__ import annotations

import array
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from fildes.sdk.errors import Denied, Unavailable
from fildes.wire import tenant
from fildes.wire.tenant import Answer, Malformed

_PATIENCE: Final = 30_000  # milliseconds; a bus that is started again takes a few dozen
_ROOM: Final = socket.CMSG_SPACE(tenant.MAX_FDS * 4)

Opened = tuple[Any, list[int]]  # a reply's body, and the descriptors beside it


class Waiting:
    __slots__ = ("done", "on_done", "request", "result")

    def __init__(self, request: bytes, on_done: Callable[[], object] | None) -> None:
        self.request, self.on_done = request, on_done
        self.done = False
        self.result: Opened | Exception | None = None


class Channel:
    """Owns the socket with the number `fd`, SOCK_SEQPACKET. It may be blocking or not: event loops change that."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._turn = threading.Condition()
        self._reading = False
        self._waiting: dict[int, Waiting] = {}
        self._sent: set[int] = set()  # of those, what the bus has and did not answer yet; WINDOW at most
        self._unsent: deque[int] = deque()
        self._last = 0
        self._epoch: int | None = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    # — for callers that may block —

    def ask(self, verb: str, body: dict[str, Any]) -> Opened:
        """Send and wait. The caller owns the descriptors. Raises Denied or Unavailable."""
        with self._turn:
            number, waiting = self._begin(verb, body, None)
        while not waiting.done:
            with self._turn:
                while self._reading and not waiting.done:
                    self._turn.wait()
                if waiting.done:
                    break
                self._reading = True
            try:
                if not self._poll.poll(_PATIENCE):
                    raise Unavailable("the bus did not answer in time; an operator sees why: fildes ps --all")
                self._receive()
            except Unavailable as error:
                with self._turn:
                    waiting.done, waiting.result = True, error
                    self._forget(number)
            finally:
                with self._turn:
                    self._reading = False
                    self._turn.notify_all()
        return result(waiting)

    # — for event loops —

    def begin(self, verb: str, body: dict[str, Any], on_done: Callable[[], object]) -> tuple[int, Waiting]:
        """Send; `on_done()` is called by whoever reads the answer. Call `poll` whenever the channel is readable."""
        with self._turn:
            return self._begin(verb, body, on_done)

    def poll(self) -> None:
        """Read what is there, without waiting. When the channel has ended, everybody who waits is told."""
        with self._turn:
            if self._reading:
                return
            self._reading = True
        try:
            while self._receive():
                pass
        except Unavailable as error:
            self._fail_all(error)
        finally:
            with self._turn:
                self._reading = False
                self._turn.notify_all()

    def _fail_all(self, error: Unavailable) -> None:
        with self._turn:
            failed = list(self._waiting.values())
            self._waiting.clear()
            self._sent.clear()
            self._unsent.clear()
            for waiting in failed:
                waiting.done, waiting.result = True, error
        for waiting in failed:
            if waiting.on_done is not None:
                waiting.on_done()

    def give_up(self, number: int) -> None:
        """Nobody waits for this answer any more: what comes with it is closed."""
        with self._turn:
            self._waiting.pop(number, None)  # it stays among the sent: its answer is still to be read

    # — both —

    def _begin(self, verb: str, body: dict[str, Any], on_done: Callable[[], object] | None) -> tuple[int, Waiting]:
        self._last = self._last % tenant.MAX_ID + 1
        try:
            request = tenant.request(self._last, verb, body)
        except ValueError as error:
            raise Denied("too-large", str(error)) from error
        waiting = Waiting(request, on_done)
        self._waiting[self._last] = waiting
        self._unsent.append(self._last)
        try:
            self._flush()
        except Unavailable:
            self._forget(self._last)
            raise
        return self._last, waiting

    def _forget(self, number: int) -> None:
        self._waiting.pop(number, None)
        self._sent.discard(number)

    def _flush(self) -> None:
        """Send what fits into the window; each answer makes room for another."""
        while self._unsent and len(self._sent) < tenant.WINDOW:
            number = self._unsent[0]
            waiting = self._waiting.get(number)
            if waiting is not None:  # else it was given up
                try:
                    self._socket.send(waiting.request, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return  # full of what was sent again to a new bus: its answers are on their way
                except OSError as error:
                    raise Unavailable(f"the channel to the bus has ended: {error.strerror}") from error
                self._sent.add(number)
            self._unsent.popleft()

    def _receive(self) -> bool:
        """Read one datagram and give it to whom it is for. False: there was none."""
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            data, control, result, _ = self._socket.recvmsg(tenant.MAX_ANSWER, _ROOM, flags)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Unavailable(f"the channel to the bus has ended: {error.strerror}") from error
        fds = array.array("i")
        for level, kind, payload in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) // 4 * 4])
        if not data:
            raise Unavailable("the channel to the bus was closed")
        if result & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            _close(fds)
            raise Unavailable("an answer of the bus did not fit, and was dropped: open fewer things at once")
        try:
            answer = tenant.answer(data)
        except Malformed as error:
            _close(fds)
            raise Unavailable(f"the bus sent what is not a message: {error}") from error
        self._take_in(answer, fds)
        return True

    def _take_in(self, answer: Answer, fds: array.array[int]) -> None:
        with self._turn:
            if answer.kind == "hello":
                _close(fds)
                self._on_hello(answer.epoch)
                return
            self._sent.discard(answer.id)
            self._flush()
            waiting = self._waiting.pop(answer.id, None)
            if waiting is None or answer.kind == "event":
                _close(fds)
                return
            if answer.kind == "reply":
                waiting.result = (answer.body, list(fds))
            else:
                _close(fds)
                waiting.result = Denied(answer.code, answer.text, answer.grant)
            waiting.done = True
            self._turn.notify_all()
        if waiting.on_done is not None:
            waiting.on_done()

    def _on_hello(self, epoch: int) -> None:
        """The bus was started again, and has forgotten what it was asked."""
        known, self._epoch = self._epoch, epoch
        if known is not None and known != epoch:
            self._unsent = deque(self._waiting)
            self._sent.clear()
            self._flush()


def result(waiting: Waiting) -> Opened:
    """What was answered; raises what was refused."""
    if isinstance(waiting.result, Exception):
        raise waiting.result
    if waiting.result is None:
        raise Unavailable("the request was given up")
    return waiting.result


def _close(fds: list[int] | array.array[int]) -> None:
    for fd in fds:
        os.close(fd)
