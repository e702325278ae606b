"""Accept, read the head, find the route, pass the connection on.

    _accept ─► _arrived ─► _route ─► exchange.post      handed over: an instance owns it from here on
                  │           ├────► relays.start       kept, and passed on request by request
                  │           ├────► parking.park       its release is being replaced
                  │           └────► answers.refuse     404, 413, 421, 429, 503
                  ├► heads.read_on                      not whole yet
                  └► answers.refuse                     400, 431 …

A connection whose head comes whole with the first bytes costs no epoll registration and no timer.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from fildes.daemon.routes import Match, Table
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.web import proxy_header
from fildes.web.access import About
from fildes.web.answers import Answers
from fildes.web.crowd import Crowd
from fildes.web.exchange import Exchange
from fildes.web.heads import Heads
from fildes.web.owner import Limits
from fildes.web.parcels import FRESH, STATIC, Conveyor, Parcel, Past
from fildes.web.parking import Parking
from fildes.web.proxies import HTTP, PROXY_PROTOCOL, WAYS, Client, Proxies
from fildes.web.relay import Relays
from fildes.web.sockets import Gone, NotOurs, acknowledge, believe, close_passed, local_addresses, peer_text
from fildes.wire import conveyor as wire
from fildes.wire.http import Bad, Head, Incomplete, parse, split_host
from fildes.wire.http_fields import Refused
from fildes.wire.web import CountsGiven

MOST_HOPS: Final = 3
INTRODUCED: Final = "introduced"  # the way of a connection whose PROXY header was read
_ACCEPTS: Final = 64  # connections accepted before conveyors get their turn
_READ: Final = 8192
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE: Final = 0.05
_FROM: Final = {way: Past(way=way) for way in WAYS}


class Door:
    """Implements owner.Owner. `wanted` and `dropped` are what it can't decide itself."""

    def __init__(
        self,
        loop: Loop,
        listeners: list[socket.socket],
        limits: Limits,
        wanted: Callable[[Conveyor], object],
        dropped: Callable[[Conveyor, str | None], object],
        *,
        proxies: Proxies | None = None,
        most_of_one: int = 0,
        access_log: bool = False,
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._limits = limits
        self._local = local_addresses(listeners)
        self._open = False
        self._proxies = proxies or Proxies()
        self.wanted = wanted
        self.dropped = dropped
        self.table = Table(-1)
        self.stale = False  # the table is an old one: what it does not name may exist
        self._crowd = Crowd(most_of_one)
        self.answers = Answers(loop, limits.refused, logged=access_log)
        self.heads = Heads(loop, limits.reading, self.answers, self._crowd, self._whole)
        self.exchange = Exchange(loop, limits, self)
        self.relays = Relays(loop, limits.relays, self.answers, self._crowd, self._next)
        self.parking = Parking(loop, limits.waiting, self.overdue)
        self.accepted = self.bad_requests = self.not_found = 0

    # — the table —

    def follow(self, table: Table) -> None:
        """From now on route by `table`; the first one opens the door."""
        self.table = table
        for parcel in self.parking.empty():
            past = parcel.past
            self._arrived(parcel.number, parcel.peer, parcel.head, past.later(min(past.hops, MOST_HOPS - 1)))
        if not self._open:
            self._open = True
            for listener in self._listeners:
                self._watch(listener)
        self.exchange.flush()

    def shut(self) -> None:
        """Accept nothing more."""
        self._open = False
        for listener in self._listeners:
            self._loop.unwatch(listener.fileno())

    @property
    def busy(self) -> bool:
        """Whether there are connections that nobody else could go on with."""
        return bool(len(self.heads) or self.exchange.waiting or len(self.relays))

    # — new connections —

    def _watch(self, listener: socket.socket) -> None:
        self._loop.watch(listener.fileno(), EPOLLIN, lambda _: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        accept = listener._accept  # type: ignore[attr-defined]  # accept4(2) without the object around it
        set_blocking, read = os.set_blocking, os.read
        past, proxied = FRESH, bool(self._proxies)
        for _ in range(_ACCEPTS):
            try:
                number, address = accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._exhausted(listener)
                    break
                continue  # the client gave up while it waited (accept(2))
            self.accepted += 1
            set_blocking(number, False)
            peer = peer_text(address)
            if proxied:
                past = _FROM.get(self._proxies.way(peer.partition(b" ")[0]), FRESH)
            try:
                data = read(number, _READ)
            except BlockingIOError:
                acknowledge(number)
                self.heads.read_on(number, peer, b"", past)
                continue
            except OSError:
                data = b""
            if not data:
                os.close(number)
            elif proxied:
                acknowledge(number)
                self._arrived(number, peer, data, past)
            elif isinstance(head := parse(data), Head):
                self._route(number, peer, data, head, FRESH)
            else:
                acknowledge(number)
                self._no_head(number, peer, data, head, FRESH)
        self.exchange.flush()

    def _exhausted(self, listener: socket.socket) -> None:
        """No descriptor left, in spite of the limits: who is slow makes room, and the backlog waits."""
        self.heads.make_room()
        self._loop.unwatch(listener.fileno())
        self._loop.call_later(_PAUSE, lambda: self._watch(listener) if self._open else None)

    # — heads —

    def _arrived(self, number: int, peer: bytes, data: bytes, past: Past) -> None:
        """All that has been read of a connection which nobody watches. Owns `number`."""
        if past.way == PROXY_PROTOCOL:
            self._introduced(number, peer, data, past)
            return
        head = parse(data)
        if isinstance(head, Head):
            self._route(number, peer, data, head, past)
        else:
            self._no_head(number, peer, data, head, past)

    def _no_head(self, number: int, peer: bytes, data: bytes, head: Bad | Incomplete, past: Past) -> None:
        if isinstance(head, Bad):
            self._bad(number, peer, head, past, data)
        else:
            self.heads.read_on(number, peer, data, past)

    def _whole(self, number: int, peer: bytes, data: bytes, past: Past) -> None:
        self._arrived(number, peer, data, past)
        self.exchange.flush()

    def _next(self, number: int, peer: bytes, data: bytes, past: Past) -> None:
        """A relayed request was answered: what comes next on its connection may be for anybody."""
        if data:
            self._whole(number, peer, data, past)
        else:
            self.heads.read_on(number, peer, b"", past, between=True)

    def _introduced(self, number: int, peer: bytes, data: bytes, past: Past) -> None:
        """A proxy says in a PROXY header whose connection this is."""
        found = proxy_header.parse(data)
        if isinstance(found, Bad):
            self._bad(number, peer, found, past, b"")
        elif isinstance(found, proxy_header.Introduced):
            way = self._proxies.way(found.peer.partition(b" ")[0]) if found.peer else ""
            after = Past(way=way if way in HTTP else INTRODUCED, secure=found.secure)
            rest = data[found.length :]
            if rest:
                self._arrived(number, found.peer or peer, rest, after)
            else:
                self.heads.read_on(number, found.peer or peer, b"", after)
        else:
            self.heads.read_on(number, peer, data, past)

    def _bad(self, number: int, peer: bytes, bad: Bad, past: Past, data: bytes) -> None:
        self.bad_requests += 1
        text = bad.sentence
        if proxy_header.looks_like_one(data):
            text = (
                "A PROXY header is believed only from addresses that the node was started with: "
                "fildes up --proxy ADDRESS=proxy-protocol"
            )
        self.answers.refuse(number, bad.status, text, passed=past.passed, about=About(peer))

    # — routes —

    def _route(self, number: int, peer: bytes, data: bytes, head: Head, past: Past) -> None:
        host = head.fields.host
        client = None
        if past.way:
            try:
                client, host = self._client(head, peer, past)
            except Refused as refused:
                self._bad(number, peer, refused.bad, past, b"")
                return
        match = self.table.find(host, head.line.path)
        if match is None:
            self._nowhere(number, host, head, past, client.address if client is not None else peer)
            return
        route = match.route
        if route.runtime == "static":
            conveyor = self.exchange.conveyor(STATIC, "", "")
        else:
            conveyor = self.exchange.conveyors.get(route.release) or self.exchange.conveyor(
                route.release, route.service, route.owner
            )
            conveyor.owner = route.owner
        parcel = Parcel(number, peer, data, 0, past)
        if match.mixed:
            parcel.flags = wire.ONCE
            conveyor.returns = True
        if past.relay is not None:  # one request, whose release was replaced before it was taken
            parcel.flags = past.flags
            self._post(conveyor, parcel)
            return
        if self._crowd.limit and not past.way and conveyor.release != STATIC:
            parcel.who = self._crowd.key(peer)
        plain = past is FRESH and not match.shared and not head.has_body
        if plain and conveyor.has_room(parcel.who, self._crowd.limit, route.connections):
            self.exchange.post(conveyor, parcel)
            return
        if head.has_body:
            acknowledge(number)
        if self._is_refused(parcel, conveyor, match, head):
            return
        if match.shared or self._must_relay(conveyor, past):
            self.relays.start(parcel, head, conveyor, self._post, client=client, most=route.body, timeout=route.timeout)
        else:
            self._post(conveyor, parcel)

    def _is_refused(self, parcel: Parcel, conveyor: Conveyor, match: Match, head: Head) -> bool:
        """Whether it was answered here, because of where it has been, of its size, or of too many others."""
        number, past, route, ledger = parcel.number, parcel.past, match.route, conveyor.ledger
        extra = ""
        if past.origin is not None and not _may_move(past.origin, match):
            status, text = 421, f"Another connection is needed for the host {head.fields.host}."
        elif (head.fields.content_length or 0) > route.body:
            status = 413
            text = f"The body of the request is larger than the {route.body} bytes that {route.service} takes."
        elif parcel.who and ledger.clients.get(parcel.who, 0) >= self._crowd.limit:
            self.answers.crowded(number, past, head_only=parcel.head_only, about=About(parcel.peer, head))
            return True
        elif ledger.open + conveyor.relayed >= route.connections and conveyor.release != STATIC:
            conveyor.counts.refused += 1
            status, extra = 503, "retry-after: 1\r\n"
            text = f"{route.service} has as many connections as it may have: {route.connections}."
        else:
            return False
        about = About(parcel.peer, head)
        self.answers.refuse(number, status, text, extra, head_only=parcel.head_only, passed=past.passed, about=about)
        return True

    def _client(self, head: Head, peer: bytes, past: Past) -> tuple[Client, str]:
        """Who sent this request through a declared proxy, and to which host. Raises Refused.

        The Host that the proxy itself sends decides. Where it names nothing of ours, as with a proxy that asks for
        us by address, the host that it was asked for does."""
        client = self._proxies.client(past.way, head.fields.forwarded, peer, past.secure)
        host = head.fields.host
        if client.host and not self.table.knows(host):
            return client, split_host(client.host) or host
        return client._replace(host=None), host

    def _nowhere(self, number: int, host: str, head: Head, past: Past, peer: bytes) -> None:
        head_only = head.line.method == "HEAD"
        if self.stale:
            text = "The node is starting; it does not know all of its services yet."
            self.answers.unavailable(number, text, head_only=head_only, passed=past.passed, about=About(peer, head))
            return
        self.not_found += 1
        what = "no service at this path of the host" if self.table.knows(host) else "no service for this host"
        text = f"There is {what}: {host}\nWhoever runs this node lists its services and their hosts with: fildes ps"
        self.answers.refuse(number, 404, text, head_only=head_only, passed=past.passed, about=About(peer, head))

    def _must_relay(self, conveyor: Conveyor, past: Past) -> bool:
        if conveyor.release == STATIC:  # no tenant, and no use for a client's address: what it gives back comes back
            tenant = past.origin is not None and past.origin.release != STATIC
            return tenant or past.way == INTRODUCED
        return bool(past.way)

    def _post(self, conveyor: Conveyor, parcel: Parcel) -> None:
        if conveyor.halted:
            self.overdue(conveyor, parcel)
        elif conveyor.retired or parcel.past.hops >= MOST_HOPS:
            self.parking.park(conveyor, parcel)
        else:
            self.exchange.post(conveyor, parcel)

    # — what became of them: owner.Owner —

    def came_back(self, conveyor: Conveyor, back: wire.Back, number: int, copy: Parcel | None, progress: bool) -> str:
        if self.relays.came_back(copy):
            close_passed(number)
            return ""
        try:
            peer = believe(number, self._local)
        except NotOurs as error:
            close_passed(number)
            return str(error)
        except Gone:
            close_passed(number)
            return ""
        hops = copy.past.hops + 1 if copy is not None else 0 if progress else 1
        way = self._proxies.way(peer.partition(b" ")[0]) if self._proxies else ""
        if way == PROXY_PROTOCOL:  # never handed over: a tenant can't have got it from us
            close_passed(number)
            return "it belongs to a proxy that sends PROXY headers"
        past = Past(hops, conveyor, way=way)
        if back.head:
            self._arrived(number, peer, back.head, past)
        else:
            self.heads.read_on(number, peer, b"", past)
        return ""

    def undelivered(self, conveyor: Conveyor, parcel: Parcel) -> None:
        if conveyor.retired:
            self.parking.park(conveyor, parcel)
        else:
            self._arrived(parcel.number, parcel.peer, parcel.head, parcel.past.later(parcel.past.hops + 1))

    def overdue(self, conveyor: Conveyor, parcel: Parcel) -> None:
        conveyor.counts.refused += 1
        name = conveyor.service
        text = "The service can't take this request now."
        if conveyor.halted and name:
            text = f"The service is stopped. Its owner finds the reason with: fildes logs {name}"
        about = About(parcel.peer)
        self.answers.unavailable(
            parcel.number, text, head_only=parcel.head_only, passed=parcel.past.passed, about=about
        )

    def forsaken(self, conveyor: Conveyor, parcel: Parcel, taken: bool, reason: str) -> None:
        conveyor.counts.refused += 1
        if not taken:
            self.answers.unavailable(
                parcel.number, "The service was replaced before it saw this request.",
                head_only=parcel.head_only, passed=True, about=About(parcel.peer),
            )  # fmt: skip
            return
        name = conveyor.service
        text = f"The program ended before it answered. See: fildes logs {name}" if name else "The program ended."
        about = About(parcel.peer)
        self.answers.refuse(parcel.number, 502, text, head_only=parcel.head_only, passed=True, about=about)

    def counts(self) -> CountsGiven:
        told = {
            release: conveyor.counts.told(
                len(conveyor.backlog), len(conveyor.ledger.unacknowledged), conveyor.ledger.open + conveyor.relayed
            )
            for release, conveyor in self.exchange.conveyors.items()
        }
        return CountsGiven(told, self.accepted, len(self.heads), self.bad_requests, self.not_found, len(self.relays))

    def close(self) -> None:
        """Close all connections at once."""
        self.shut()
        self.heads.close()
        self.parking.close()
        self.relays.close()
        self.exchange.close()
        self.answers.close()


def _may_move(origin: Conveyor, match: Match) -> bool:
    """May a connection that an instance of `origin` held go on to `match`? A tenant may have kept a copy: it would read
    what is meant for another owner."""
    return origin.release == STATIC or (origin.owner == match.route.owner and not match.shared)
