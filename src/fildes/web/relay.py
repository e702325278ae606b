"""Connections that the door keeps, and of which it passes on one request: to hosts that several owners share by path,
and to the static daemon, which serves everybody, when a tenant held the connection before: it may have kept a copy, and
could make a call of static's block.

The instance gets one end of a stream pair in place of the client's connection, and a head that says
`Connection: close`. Of what the client sends, only the body of this request goes through; after the answer the
connection ends, and the next request comes on another. Not even a hostile instance sees a byte meant for another owner.
A WebSocket goes through whole once the instance has switched protocols.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final

from fildes.kernel.fds import stream_pair
from fildes.kernel.loop import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, Loop
from fildes.web.answers import Answers
from fildes.web.parcels import Conveyor, Parcel
from fildes.web.sockets import borrow, close_passed
from fildes.wire.http import Head
from fildes.wire.http_body import Chunked, Sized
from fildes.wire.http_fields import Refused

_PIECE: Final = 65536
_HOP_BY_HOP: Final = (b"connection", b"keep-alive", b"proxy-connection")
_SWITCHED: Final = (b"HTTP/1.1 101", b"HTTP/1.0 101")


def single_request(head: Head, data: bytes) -> bytes:
    """The head in `data` (its first `head.length` bytes), asking for this one response only."""
    request_line, _, block = data[: head.length - 2].lstrip(b"\r\n").partition(b"\r\n")
    kept = [line for line in block.split(b"\r\n") if line and line.partition(b":")[0].lower() not in _HOP_BY_HOP]
    kept.append(b"Connection: Upgrade" if head.upgrade else b"Connection: close")
    return b"\r\n".join((request_line, *kept, b"", b""))


class _Whole:
    """After a protocol switch everything is passed on."""

    done = False

    @staticmethod
    def feed(data: bytes) -> bytes:
        return data


class _Relay:
    """`client` and `inner` are owned. Bytes wait in `up` (to the instance) and `down` (to the client).
    `passed`: a tenant held the client's connection before."""

    __slots__ = (
        "answered",
        "body",
        "client",
        "conveyor",
        "down",
        "ended",
        "head_only",
        "held",
        "inner",
        "passed",
        "raw",
        "serial",
        "sock",
        "up",
        "upgrade",
    )

    def __init__(self, parcel: Parcel, inner: int, head: Head, conveyor: Conveyor) -> None:
        self.conveyor = conveyor
        self.client = parcel.number
        self.sock = borrow(parcel.number)  # because only its calls can say MSG_DONTWAIT
        self.passed = parcel.origin is not None
        self.inner = inner
        self.head_only = head.line.method == "HEAD"
        self.upgrade = bool(head.upgrade)
        self.body: Sized | Chunked | _Whole = Chunked() if head.chunked else Sized(head.content_length or 0)
        self.raw = head.chunked
        self.held = b""  # what the client sent behind a request for an upgrade that is not granted yet
        self.up = b""
        self.down = b""
        self.answered = False  # the first bytes of the response were seen
        self.ended = False  # the instance sends nothing more
        self.serial = 0


class Relays:
    def __init__(self, loop: Loop, limit: int, answers: Answers) -> None:
        self._loop = loop
        self._limit = limit
        self._answers = answers
        self._relays: dict[int, _Relay] = {}  # by the client's number
        self._serials: dict[int, _Relay] = {}

    def __len__(self) -> int:
        return len(self._relays)

    def start(self, parcel: Parcel, head: Head, conveyor: Conveyor, post: Callable[[Conveyor, Parcel], object]) -> None:
        """Take over the client's connection, and post one end of a stream pair in its place."""
        if len(self._relays) >= self._limit:
            text = "Too many connections are relayed."
            passed = parcel.origin is not None
            self._answers.unavailable(parcel.number, text, head_only=parcel.head_only, passed=passed)
            return
        inner, outer = stream_pair()
        for end in (inner, outer):
            os.set_blocking(end.fileno(), False)
        relay = _Relay(parcel, inner.take(), head, conveyor)
        self._relays[relay.client] = relay
        self._loop.watch(relay.client, EPOLLIN, lambda events: self._on_client(relay, events))
        self._loop.watch(relay.inner, EPOLLIN, lambda events: self._on_inner(relay, events))
        first, rest = single_request(head, parcel.head), parcel.head[head.length :]
        replacement = Parcel(outer.take(), parcel.peer, first)
        if not self._take_in(relay, rest):
            os.close(replacement.number)
            return
        post(conveyor, replacement)
        if replacement.serial:  # else it was refused at once
            relay.serial = replacement.serial
            self._serials[relay.serial] = relay
        self._push_up(relay)

    def came_back(self, conveyor: Conveyor, serial: int) -> bool:
        """`conveyor` hands back what it was given as `serial`: if it was relayed, the client gets 421."""
        relay = self._serials.get(serial)
        if relay is None or relay.conveyor is not conveyor:
            return False
        self._finish(relay, 421, "This program does not serve what was asked for.")
        return True

    # — client → instance —

    def _on_client(self, relay: _Relay, events: int) -> None:
        if events & (EPOLLHUP | EPOLLERR):
            try:
                relay.sock.recv(_PIECE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return  # an event of the number's last owner, in the same round of the loop
            except OSError:
                pass
            self._end(relay)  # it is gone for good; a half-closed one still gets its answer
            return
        if events & EPOLLOUT:
            self._push_down(relay)
        if events & EPOLLIN and relay.client in self._relays and not relay.up:
            try:
                data = relay.sock.recv(_PIECE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end(relay)  # as on a direct connection, the instance learns by the end of its stream
            elif self._take_in(relay, data):
                self._push_up(relay)

    def _take_in(self, relay: _Relay, data: bytes) -> bool:
        """What of `data` is this request's goes up. False: it was refused, the relay is finished."""
        if not data or relay.body.done:
            if relay.upgrade:
                relay.held = (relay.held + data)[:_PIECE]
            return True
        try:
            body = relay.body.feed(data)
        except Refused as refused:
            self._finish(relay, refused.bad.status, refused.bad.sentence)
            return False
        if relay.raw:  # chunks are made anew: extensions and trailers end here
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if relay.body.done:
                body += b"0\r\n\r\n"
        relay.up += body
        return True

    def _push_up(self, relay: _Relay) -> None:
        if relay.up:
            try:
                sent = os.write(relay.inner, relay.up)
            except BlockingIOError:
                sent = 0
            except OSError:  # it doesn't read on; it may still answer
                sent = len(relay.up)
            relay.up = relay.up[sent:]
        self._watch(relay)

    # — instance → client —

    def _on_inner(self, relay: _Relay, events: int) -> None:
        if events & EPOLLOUT:
            self._push_up(relay)
        if not events & ~EPOLLOUT or relay.down or relay.ended or relay.client not in self._relays:
            return
        try:
            data = os.read(relay.inner, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if not relay.answered:
                self._finish(relay, 502, "The program ended the connection without an answer.")
                return
            relay.ended = True
        elif not relay.answered:
            relay.answered = True
            if relay.upgrade:
                self._switch(relay, data)
        relay.down += data
        self._push_down(relay)

    def _switch(self, relay: _Relay, data: bytes) -> None:
        relay.upgrade = False
        held, relay.held = relay.held, b""
        if data.startswith(_SWITCHED):
            relay.body = _Whole()
            relay.raw = False
            relay.up += held
            self._push_up(relay)

    def _push_down(self, relay: _Relay) -> None:
        if relay.down:
            try:
                sent = relay.sock.send(relay.down, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end(relay)
                return
            relay.down = relay.down[sent:]
        if relay.ended and not relay.down:
            client = relay.client
            self._end(relay, keep_client=True)
            self._answers.drain(client, passed=relay.passed)
        else:
            self._watch(relay)

    # — both —

    def _watch(self, relay: _Relay) -> None:
        if relay.client not in self._relays:
            return
        # A client that sends more than this request is not read: it may not fill the door's memory.
        listening = not relay.up and (not relay.body.done or (relay.upgrade and len(relay.held) < _PIECE))
        self._loop.rewatch(relay.client, (EPOLLIN if listening else 0) | (EPOLLOUT if relay.down else 0))
        answering = not relay.down and not relay.ended
        wanted = (EPOLLIN if answering else 0) | (EPOLLOUT if relay.up and not relay.ended else 0)
        # Not merely a mask of 0: the end of the instance's stream would be reported again and again.
        self._loop.unwatch(relay.inner)
        if wanted:
            self._loop.watch(relay.inner, wanted, lambda events: self._on_inner(relay, events))

    def _finish(self, relay: _Relay, status: int, sentence: str) -> None:
        """Answer in the instance's place."""
        client = relay.client
        self._end(relay, keep_client=True)
        self._answers.refuse(client, status, sentence, head_only=relay.head_only, passed=relay.passed)

    def _end(self, relay: _Relay, *, keep_client: bool = False) -> None:
        del self._relays[relay.client]
        self._serials.pop(relay.serial, None)
        self._loop.unwatch(relay.client)
        self._loop.unwatch(relay.inner)
        os.close(relay.inner)
        relay.sock.detach()
        if not keep_client:
            close_passed(relay.client)

    def close(self) -> None:
        for relay in list(self._relays.values()):
            self._end(relay)
