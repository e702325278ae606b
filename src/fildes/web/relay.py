"""Requests that the door passes on one by one, and keeps the connection: those that come from a declared proxy, those
to hosts that several owners share by path, and those to the static daemon on a connection that a tenant has held.

The instance gets one end of a stream pair in place of the client's connection, and a head that says
`Connection: close` (web/request.py). Of what the client sends, only the body of this request goes through; of what the
instance writes, only one response (web/response.py). Then the connection goes back to the door's reading of heads: the
next request on it may be for anybody. Not even a hostile instance sees a byte meant for another owner, or puts one in
another's answer. A WebSocket goes through whole once the instance has switched protocols.

Memory: one piece each way, smaller the more relays there are. Whoever has no room is not read from.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final

from fildes.kernel.fds import stream_pair
from fildes.kernel.loop import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Loop
from fildes.web.access import About
from fildes.web.answers import Answers
from fildes.web.crowd import Crowd
from fildes.web.parcels import Conveyor, Parcel, Past
from fildes.web.proxies import Client
from fildes.web.relayed import Relay
from fildes.web.request import single_request
from fildes.web.response import Broken
from fildes.web.sockets import close_passed
from fildes.wire import conveyor as wire
from fildes.wire.http import Head
from fildes.wire.http_fields import Refused

PIECE: Final = 65536
ALL_PIECES: Final = 16 << 20  # bytes that all relays together may hold each way, above SMALLEST for each
SMALLEST: Final = 4096
STALL: Final = 60.0  # seconds in which a client takes or sends nothing, and is waited for
_SWEEP: Final = 1.0
_SHARE: Final = 4  # times what is left: so much may one owner's services have. Alone, four fifths of all

# (number, peer, what came of the next request, past): the callee owns the number.
Next = Callable[[int, bytes, bytes, Past], object]


class Relays:
    def __init__(self, loop: Loop, limit: int, answers: Answers, crowd: Crowd, following: Next) -> None:
        self._loop = loop
        self._limit = limit
        self._answers = answers
        self._crowd = crowd
        self._following = following
        self._relays: dict[int, Relay] = {}  # by the client's number
        self._sweeping = False
        self._held: dict[str, int] = {}  # how many of them by the owner of the service

    def __len__(self) -> int:
        return len(self._relays)

    def start(
        self,
        parcel: Parcel,
        head: Head,
        conveyor: Conveyor,
        post: Callable[[Conveyor, Parcel], object],
        *,
        client: Client | None,
        most: int,
        timeout: float,
    ) -> None:
        """Take over the client's connection, and post one end of a stream pair in its place.

        `most`: bytes of body that pass; `timeout`: seconds until an answer begins. `client`: as a proxy told."""
        if not self._is_room(conveyor):
            text = "Too many connections are relayed."
            self._answers.unavailable(parcel.number, text, head_only=parcel.head_only, passed=parcel.past.passed)
            return
        if not self._crowd.enter(parcel.who):
            self._answers.crowded(parcel.number, parcel.past, head_only=parcel.head_only)
            return
        inner, outer = stream_pair()
        for end in (inner, outer):
            os.set_blocking(end.fileno(), False)
        relay = Relay(parcel, inner.take(), head, conveyor, most, timeout, self._loop.time())
        conveyor.relayed += 1
        self._relays[relay.client] = relay
        self._held[relay.owner] = self._held.get(relay.owner, 0) + 1
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP, self._sweep)
        flags, peer = 0, parcel.peer
        if client is not None:
            flags = wire.FORWARDED | (wire.TLS if client.secure else 0)
            peer = client.address
        first, rest = single_request(head, parcel.head, client), parcel.head[head.length :]
        replacement = Parcel(outer.take(), peer, first, flags, Past(relay=relay, flags=flags))
        if not self._take_in(relay, rest):
            os.close(replacement.number)
            return
        post(conveyor, replacement)
        self._push_up(relay)

    def _is_room(self, conveyor: Conveyor) -> bool:
        """Whoever has many may only have more while there is much left: programs that never answer, and their clients,
        keep nobody else's out."""
        free = self._limit - len(self._relays)
        return free > 0 and self._held.get(conveyor.owner, 0) < _SHARE * free

    def came_back(self, copy: Parcel | None) -> bool:
        """An instance hands back what was relayed to it: the client gets 421."""
        relay = copy.past.relay if copy is not None else None
        if not isinstance(relay, Relay):
            return False
        if self._is_there(relay):
            self._finish(relay, 421, "This program does not serve what was asked for.")
        return True

    def _is_there(self, relay: Relay) -> bool:
        return self._relays.get(relay.client) is relay

    # — client → instance —

    def _on_client(self, relay: Relay, events: int) -> None:
        if events & (EPOLLHUP | EPOLLERR):
            try:
                relay.sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
            except BlockingIOError:
                return  # an event of the number's last owner, in the same round of the loop
            except OSError:
                pass
            self._end(relay)  # it is gone for good; a half-closed one still gets its answer
            return
        if events & EPOLLOUT:
            self._push_down(relay)
        if not self._is_there(relay) or relay.up:
            return
        if events & EPOLLIN and relay.wants_more:
            try:
                data = relay.sock.recv(self._piece(), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._end(relay)
                return
            if not data:
                relay.client_ended = True
            elif not self._take_in(relay, data):
                return
            relay.moved = self._loop.time()
            self._push_up(relay)
        elif events & EPOLLRDHUP:
            relay.client_ended = True
            self._push_up(relay)

    def _piece(self) -> int:
        return max(SMALLEST, min(PIECE, ALL_PIECES // max(1, len(self._relays))))

    def _take_in(self, relay: Relay, data: bytes) -> bool:
        """What of `data` is this request's goes up. False: it was refused, the relay is finished."""
        try:
            relay.take_in(data)
        except Refused as refused:
            self._finish(relay, refused.bad.status, refused.bad.sentence)
            return False
        return True

    def _push_up(self, relay: Relay) -> None:
        if relay.up:
            try:
                sent = os.write(relay.inner, relay.up)
            except BlockingIOError:
                sent = 0
            except OSError:  # it doesn't read on; it may still answer
                sent = len(relay.up)
                relay.deaf = True
            if sent:
                relay.up = relay.up[sent:]
                relay.moved = self._loop.time()
        if relay.client_ended and not relay.up and not relay.told_end:
            # As on a direct connection, the instance learns by the end of its stream.
            relay.told_end = True
            relay.end_inner()
        self._watch(relay)

    # — instance → client —

    def _on_inner(self, relay: Relay, events: int) -> None:
        if events & (EPOLLOUT | EPOLLHUP | EPOLLERR) and relay.up and self._is_there(relay):
            self._push_up(relay)  # to somebody who is gone it fails, and waits no more
        if not events & ~EPOLLOUT or relay.down or relay.ended or not self._is_there(relay):
            return
        try:
            data = os.read(relay.inner, self._piece())
        except BlockingIOError:
            return
        except OSError:
            data = b""
        response = relay.response
        try:
            if data:
                response.early = not relay.body.done
                relay.down = response.feed(data)
                relay.answered = response.begun
            else:
                relay.ended = True
                if not response.end():
                    raise Broken("it ended before its response was complete")
        except Broken as broken:
            self._broken(relay, str(broken))
            return
        if response.switched and not relay.open:
            relay.switch()
            self._push_up(relay)
        if self._is_there(relay):
            self._push_down(relay)

    def _broken(self, relay: Relay, why: str) -> None:
        if relay.answered:  # only an abrupt end says that what was sent is not the whole
            self._end(relay)
        else:
            name = relay.conveyor.service
            self._finish(relay, 502, f"The program's answer can't be passed on: {why}. See: fildes logs {name}")

    def _push_down(self, relay: Relay) -> None:
        if relay.down:
            try:
                sent = relay.sock.send(relay.down, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end(relay)
                return
            if sent:
                relay.down = relay.down[sent:]
                relay.moved = self._loop.time()
        if not relay.down and (relay.response.done or (relay.ended and relay.response.switched)):
            self._complete(relay)
        else:
            self._watch(relay)

    def _complete(self, relay: Relay) -> None:
        keep = relay.may_keep
        number, past, peer, rest = relay.client, relay.past, relay.peer, relay.rest
        self._end(relay, keep_client=True)
        if keep:
            self._following(number, peer, rest, past)
        else:
            self._answers.drain(number, passed=past.passed)

    # — both —

    def _watch(self, relay: Relay) -> None:
        # A client that sends more than this request is not read: it may not fill the door's memory.
        mask = (EPOLLIN if not relay.up and relay.wants_more else 0) | (EPOLLOUT if relay.down else 0)
        if not relay.client_ended and not relay.up:
            mask |= EPOLLRDHUP
        if mask != relay.client_mask:
            if relay.client_mask < 0:
                self._loop.watch(relay.client, mask, lambda events: self._on_client(relay, events))
            else:
                self._loop.rewatch(relay.client, mask)
            relay.client_mask = mask
        mask = (EPOLLIN if not relay.down and not relay.ended else 0) | (
            EPOLLOUT if relay.up and not relay.ended else 0
        )
        if mask != relay.inner_mask:
            if not mask:  # not merely a mask of 0: the end of the instance's stream would be reported again and again
                self._loop.unwatch(relay.inner)
                mask = -1
            elif relay.inner_mask < 0:
                self._loop.watch(relay.inner, mask, lambda events: self._on_inner(relay, events))
            else:
                self._loop.rewatch(relay.inner, mask)
            relay.inner_mask = mask

    def _sweep(self) -> None:
        self._sweeping = bool(self._relays)
        if not self._sweeping:
            return
        self._loop.call_later(_SWEEP, self._sweep)
        now = self._loop.time()
        for relay in list(self._relays.values()):
            waited = now - relay.moved
            if relay.open:
                if relay.down and waited > STALL:
                    self._end(relay)
            elif relay.down:
                if waited > STALL:
                    self._end(relay)
            elif not relay.response.begun:
                if relay.wants_more and not relay.up:
                    if waited > max(STALL, relay.timeout):
                        self._finish(relay, 408, f"The body of the request did not go on for {STALL:g} seconds.")
                elif waited > relay.timeout:
                    text = f"The program did not begin to answer within {relay.timeout:g} seconds."
                    self._finish(relay, 504, text)

    def _finish(self, relay: Relay, status: int, sentence: str) -> None:
        """Answer in the instance's place."""
        client = relay.client
        self._end(relay, keep_client=True)
        self._answers.refuse(
            client, status, sentence,
            head_only=relay.response.head_only, passed=relay.past.passed, about=About(relay.peer, relay.head),
        )  # fmt: skip

    def _end(self, relay: Relay, *, keep_client: bool = False) -> None:
        del self._relays[relay.client]
        self._held[relay.owner] -= 1
        if not self._held[relay.owner]:
            del self._held[relay.owner]
        self._crowd.leave(relay.who)
        relay.conveyor.relayed -= 1
        self._loop.unwatch(relay.client)
        self._loop.unwatch(relay.inner)
        os.close(relay.inner)
        relay.sock.detach()
        if not keep_client:
            close_passed(relay.client)

    def close(self) -> None:
        for relay in list(self._relays.values()):
            self._end(relay)
