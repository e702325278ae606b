"""Accept, read the head, find the route, pass the connection on.

A connection whose head comes whole with the first bytes costs no epoll registration and no timer. The others wait in
a queue of deadlines; a client that trickles occupies a descriptor until its time is up, and no more of anything.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from fildes.daemon.deadlines import Deadlines
from fildes.daemon.routes import Match, Table
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.web.answers import Answers
from fildes.web.exchange import Exchange
from fildes.web.owner import Limits
from fildes.web.parcels import STATIC, Conveyor, Parcel
from fildes.web.relay import Relays
from fildes.web.sockets import Gone, NotOurs, believe, close_passed, local_addresses, peer_text, read_passed
from fildes.wire import conveyor as wire
from fildes.wire.http import HEAD_LIMIT, Bad, Head, parse
from fildes.wire.web import CountsGiven

HEAD_SECONDS: Final = 10.0  # from the first look at a connection to the end of its head
IDLE_SECONDS: Final = 75.0  # for a connection that was handed back between two requests
PATIENCE: Final = 1.0  # seconds that a connection waits for the catalogue to name another release
MOST_HOPS: Final = 3
_ACCEPTS: Final = 64  # connections accepted before conveyors get their turn
_READ: Final = 8192
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE: Final = 0.05


class _Reading:
    """A connection whose head is not complete. `origin`: the conveyor that handed it back."""

    __slots__ = ("buffer", "hops", "origin", "peer")

    def __init__(self, peer: bytes, data: bytes, hops: int, origin: Conveyor | None) -> None:
        self.buffer = bytearray(data)
        self.peer = peer
        self.hops = hops
        self.origin = origin


class Door:
    """Implements owner.Owner. `wanted` and `dropped` are what it can't decide itself."""

    def __init__(
        self,
        loop: Loop,
        listeners: list[socket.socket],
        limits: Limits,
        wanted: Callable[[Conveyor], object],
        dropped: Callable[[Conveyor, str | None], object],
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._limits = limits
        self._local = local_addresses(listeners)
        self._open = False
        self.wanted = wanted
        self.dropped = dropped
        self.table = Table(-1)
        self.proxies: tuple[IPv4Network | IPv6Network, ...] = ()  # whose connections carry requests of many clients
        self.stale = False  # the table is an old one: what it does not name may exist
        self.answers = Answers(loop, limits.refused)
        self.exchange = Exchange(loop, limits, self)
        self.relays = Relays(loop, limits.relays, self.answers)
        self._reading: dict[int, _Reading] = {}
        self._heads = Deadlines(loop, HEAD_SECONDS, self._head_overdue)
        self._idle = Deadlines(loop, IDLE_SECONDS, self._idle_overdue)
        self._parked: dict[int, tuple[Conveyor, Parcel]] = {}
        self._parking = Deadlines(loop, PATIENCE, self._parked_overdue)
        self.accepted = self.bad_requests = self.not_found = 0

    # — the table —

    def follow(self, table: Table) -> None:
        """From now on route by `table`; the first one opens the door."""
        self.table = table
        parked, self._parked = self._parked, {}
        for number, (_, parcel) in parked.items():
            self._parking.remove(number)
            self._again(parcel)
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
    def reading(self) -> int:
        return len(self._reading)

    # — new connections —

    def _watch(self, listener: socket.socket) -> None:
        self._loop.watch(listener.fileno(), EPOLLIN, lambda _: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        accept = listener._accept  # type: ignore[attr-defined]  # accept4(2) without the object around it
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
            os.set_blocking(number, False)
            try:
                data = os.read(number, _READ)
            except BlockingIOError:
                self._read_on(number, _Reading(peer_text(address), b"", 0, None))
                continue
            except OSError:
                data = b""
            if data:
                self._arrived(number, peer_text(address), data)
            else:
                os.close(number)
        self.exchange.flush()

    def _exhausted(self, listener: socket.socket) -> None:
        """No descriptor left, in spite of the limits: who is slow makes room, and the backlog waits."""
        oldest = self._heads.oldest()
        if oldest is not None:
            self._head_overdue(oldest)
        self._loop.unwatch(listener.fileno())
        self._loop.call_later(_PAUSE, lambda: self._watch(listener) if self._open else None)

    # — heads —

    def _arrived(self, number: int, peer: bytes, data: bytes, hops: int = 0, origin: Conveyor | None = None) -> None:
        """All that has been read of a connection which nobody watches. Owns `number`."""
        head = parse(data)
        if isinstance(head, Head):
            self._route(number, peer, data, head, hops, origin)
        elif isinstance(head, Bad):
            self.bad_requests += 1
            self.answers.refuse(number, head.status, head.sentence, passed=origin is not None)
        else:
            self._read_on(number, _Reading(peer, data, hops, origin))

    def _read_on(self, number: int, reading: _Reading) -> None:
        if len(self._reading) >= self._limits.reading:
            if (oldest := self._heads.oldest()) is not None:
                self._head_overdue(oldest)
            elif (oldest := self._idle.oldest()) is not None:
                self._idle_overdue(oldest)
        self._reading[number] = reading
        idle = reading.origin is not None and not reading.buffer
        (self._idle if idle else self._heads).add(number)
        self._loop.watch(number, EPOLLIN, lambda _: self._more(number))

    def _more(self, number: int) -> None:
        reading = self._reading[number]
        try:
            # Whoever handed it back may have kept a copy, and made it blocking.
            data = os.read(number, _READ) if reading.origin is None else read_passed(number, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer = reading.buffer
        if not data:
            self._forget(number)
            close_passed(number)
            return
        if not buffer and reading.origin is not None:
            self._idle.remove(number)
            self._heads.add(number)
        fresh = not buffer
        buffer += data
        # Parsed when it can be complete, and once at first, so that a trickle costs nothing but its bytes.
        if fresh or len(buffer) >= HEAD_LIMIT or buffer.find(b"\r\n\r\n", -len(data) - 3) >= 0:
            head = parse(bytes(buffer))
            if isinstance(head, Head | Bad):
                self._forget(number)
                self._arrived(number, reading.peer, bytes(buffer), reading.hops, reading.origin)
                self.exchange.flush()

    def _forget(self, number: int) -> None:
        del self._reading[number]
        self._heads.remove(number)
        self._idle.remove(number)
        self._loop.unwatch(number)

    def _head_overdue(self, number: int) -> None:
        reading = self._reading[number]
        self._forget(number)
        text = f"The head of the request did not arrive within {HEAD_SECONDS:g} seconds."
        self.answers.refuse(number, 408, text, passed=reading.origin is not None)

    def _idle_overdue(self, number: int) -> None:
        self._forget(number)
        close_passed(number)

    # — routes —

    def _route(self, number: int, peer: bytes, data: bytes, head: Head, hops: int, origin: Conveyor | None) -> None:
        host = head.fields.host
        match = self.table.find(host, head.line.path)
        if match is None and self.stale:
            text = "The node is starting; it does not know all of its services yet."
            self.answers.unavailable(number, text, passed=origin is not None)
            return
        if match is None:
            self.not_found += 1
            what = "no service for this host" if not self.table.knows(host) else "no service at this path of the host"
            text = f"There is {what}: {host}\nWhoever runs this node lists its services and their hosts with: fildes ps"
            head_only = head.line.method == "HEAD"
            self.answers.refuse(number, 404, text, head_only=head_only, passed=origin is not None)
            return
        route = match.route
        if route.runtime == "static":
            conveyor = self.exchange.conveyor(STATIC, "", "")
        else:
            conveyor = self.exchange.conveyor(route.release, route.service, route.owner)
            conveyor.owner = route.owner
        parcel = Parcel(number, peer, data, wire.ONCE if match.mixed else 0, hops, origin)
        if origin is not None and not _may_move(origin, match):
            text = f"Another connection is needed for the host {host}."
            self.answers.refuse(number, 421, text, head_only=parcel.head_only, passed=True)
        elif conveyor.halted:
            self.overdue(conveyor, parcel)
        elif conveyor.retired or hops >= MOST_HOPS:
            self._park(conveyor, parcel)
        elif match.shared or self._must_relay(conveyor, peer, origin):
            self.relays.start(parcel, head, conveyor, self.exchange.post)
        else:
            self.exchange.post(conveyor, parcel)

    def _must_relay(self, conveyor: Conveyor, peer: bytes, origin: Conveyor | None) -> bool:
        if conveyor.release == STATIC:  # no tenant: only one that held the connection before is feared
            return origin is not None and origin.release != STATIC
        return bool(self.proxies) and any(ip_address(peer.split()[0].decode()) in network for network in self.proxies)

    def _park(self, conveyor: Conveyor, parcel: Parcel) -> None:
        """Its release wants no connections: the catalogue may be about to name another."""
        if len(self._parked) >= self._limits.waiting:
            self.overdue(conveyor, parcel)
        else:
            self._parked[parcel.number] = conveyor, parcel
            self._parking.add(parcel.number)

    def _parked_overdue(self, number: int) -> None:
        conveyor, parcel = self._parked.pop(number)
        self.overdue(conveyor, parcel)

    def _again(self, parcel: Parcel) -> None:
        hops = min(parcel.hops, MOST_HOPS - 1)
        self._arrived(parcel.number, parcel.peer, parcel.head, hops, parcel.origin)

    # — what became of them: owner.Owner —

    def came_back(self, conveyor: Conveyor, back: wire.Back, number: int, copy: Parcel | None, progress: bool) -> str:
        if self.relays.came_back(conveyor, back.serial):
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
        hops = copy.hops + 1 if copy is not None else 0 if progress else 1
        self._arrived(number, peer, back.head, hops, conveyor)
        return ""

    def undelivered(self, conveyor: Conveyor, parcel: Parcel) -> None:
        if conveyor.retired:
            self._park(conveyor, parcel)
        else:
            self._arrived(parcel.number, parcel.peer, parcel.head, parcel.hops + 1, parcel.origin)

    def overdue(self, conveyor: Conveyor, parcel: Parcel) -> None:
        conveyor.counts.refused += 1
        name = conveyor.service
        text = "The service can't take this request now."
        if conveyor.halted and name:
            text = f"The service is stopped. Its owner finds the reason with: fildes logs {name}"
        self.answers.unavailable(parcel.number, text, head_only=parcel.head_only, passed=parcel.origin is not None)

    def forsaken(self, conveyor: Conveyor, parcel: Parcel, taken: bool, reason: str) -> None:
        conveyor.counts.refused += 1
        if not taken:
            self.answers.unavailable(
                parcel.number, "The service was replaced before it saw this request.",
                head_only=parcel.head_only, passed=True,
            )  # fmt: skip
            return
        name = conveyor.service
        text = f"The program ended before it answered. See: fildes logs {name}" if name else "The program ended."
        self.answers.refuse(parcel.number, 502, text, head_only=parcel.head_only, passed=True)

    def counts(self) -> CountsGiven:
        told = {
            release: conveyor.counts.told(len(conveyor.backlog), len(conveyor.ledger.unacknowledged))
            for release, conveyor in self.exchange.conveyors.items()
        }
        return CountsGiven(told, self.accepted, len(self._reading), self.bad_requests, self.not_found)

    def close(self) -> None:
        """Close all connections at once."""
        self.shut()
        for number in list(self._reading):
            self._idle_overdue(number)
        for number in list(self._parked):
            del self._parked[number]
            close_passed(number)
        self.relays.close()
        self.exchange.close()
        self.answers.close()


def _may_move(origin: Conveyor, match: Match) -> bool:
    """May a connection that an instance of `origin` held go on to `match`? A tenant may have kept a copy: it would read
    what is meant for another owner."""
    return origin.release == STATIC or (origin.owner == match.route.owner and not match.shared)
