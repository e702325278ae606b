"""The static daemon: connections in by its conveyor, files out of packs. It opens nothing itself."""

from __future__ import annotations

import array
import os
import resource
import signal
import socket
from collections import deque
from typing import Final

from fildes.daemon.peer import Asked, Peer, Refused
from fildes.daemon.routes import Table
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.daemon.subscription import Subscription
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import EPOLLIN, EPOLLOUT, Loop
from fildes.static import answer, handover
from fildes.static.connection import HELD, Connection
from fildes.static.connections import Connections
from fildes.static.plan import Plan
from fildes.static.sites import Site, Sites
from fildes.wire import conveyor as wire
from fildes.wire.catalogue import Pack, Packed, Route, RouteDelta
from fildes.wire.http import Head
from fildes.wire.web import Mixed, StaticEnd, StaticEndGiven

_CONVEYOR: Final = "conveyor"
_ASK_AGAIN: Final = 0.1  # seconds
_ROUTE_PATIENCE: Final = 1.0  # seconds: the door heard of a new site before we did
_DATAGRAMS: Final = 8
_FETCH: Final = 10.0
_PAUSE: Final = 0.05
_LEAVE: Final = 0.2  # seconds to tell the door what it gets back


class Static:
    def __init__(self, loop: Loop, peer: Peer, store: Store, files: int) -> None:
        self._loop, self._peer, self._store = loop, peer, store
        self._sites = Sites(max(16, files // 16))
        self._connections = Connections(loop, files * 3 // 4)
        self._connections.decide_with(self)
        self._table = Table(-1)
        self._mixed: frozenset[str] = frozenset()
        self._told_mixed = False
        self._opening: dict[str, list[Connection]] = {}
        self._failed: set[str] = set()
        self._unrouted: list[Connection] = []
        self._conveyor: socket.SocketType | None = None
        self._blocked = self._paused = False
        self._outbox: deque[tuple[bytes, int]] = deque()
        self._serving = loop.promise()
        self._routes = Subscription(
            peer, "static", item=Route, delta=RouteDelta, snapshot=self._on_snapshot, change=self._on_change
        )
        peer.on_event("static.mixed", Mixed, self._on_mixed)

    async def start(self) -> None:
        """Follow the catalogue; take connections as soon as there is a table."""
        self._routes.start()
        deposits = await self._store.collect()
        self._store.ready()
        await self._serving
        handover.take_up(self._store, self._connections, deposits)
        for deposit in deposits:
            if deposit.key == _CONVEYOR and deposit.fds:
                self._attach(deposit.fds.pop())
            close_all(deposit.fds)
        await self._ask_the_door()

    # — the conveyor —

    async def _ask_the_door(self) -> None:
        """For the hosts that we share, and for the conveyor unless we have it."""
        while True:
            self._told_mixed = False
            try:
                given = await self._peer.ask("web.static_end", StaticEnd(os.getpid()), reply=StaticEndGiven)
            except Refused:
                await self._loop.sleep(_ASK_AGAIN)
                continue
            # An event that came behind the answer is heeded before this coroutine has its turn.
            if not self._told_mixed:
                self._mixed = frozenset(given.body.mixed)
                self._forget_plans()
            if self._conveyor is None and given.fds:
                end = given.fds.pop()
                self._store.deposit(_CONVEYOR, fds=[end])
                self._attach(end)
            close_all(given.fds)
            return

    def _attach(self, end: Fd) -> None:
        self._conveyor = socket.SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, end.take())
        self._conveyor.setblocking(False)
        self._loop.watch(self._conveyor.fileno(), EPOLLIN, self._on_conveyor)

    def _lose_conveyor(self) -> None:
        """The door made another: it had lost its deposit."""
        if self._conveyor is not None:
            self._loop.unwatch(self._conveyor.fileno())
            self._conveyor.close()
            self._conveyor = None
            for _, number in self._outbox:
                if number >= 0:
                    os.close(number)
            self._outbox.clear()
            self._store.drop(_CONVEYOR)
            self._loop.spawn(self._ask_the_door())

    def _on_conveyor(self, events: int) -> None:
        if events & EPOLLOUT:
            self._flush()
        if not events & ~EPOLLOUT:
            return
        self._connections.tick()
        for _ in range(_DATAGRAMS):
            if self._connections.full:
                self._connections.make_room()
            if self._connections.full:
                self._pause()
                return
            if self._conveyor is None or not self._receive(self._conveyor):
                return

    def _pause(self) -> None:
        """All are busy: the next ones wait in the conveyor, and the door sees that they do."""
        self._paused = True
        self._watch_conveyor()
        self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = False
        self._watch_conveyor()

    def _watch_conveyor(self) -> None:
        if self._conveyor is not None:
            events = (0 if self._paused else EPOLLIN) | (EPOLLOUT if self._outbox else 0)
            self._loop.rewatch(self._conveyor.fileno(), events)

    def _receive(self, conveyor: socket.SocketType) -> bool:
        try:
            data, control, flags, _ = conveyor.recvmsg(
                wire.MAX_DATAGRAM, socket.CMSG_SPACE(wire.MAX_CONNECTIONS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            data, control, flags = b"", [], 0
        if not data:
            self._lose_conveyor()
            return False
        numbers = array.array("i")
        for level, kind, payload in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(payload[: len(payload) // 4 * 4])
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("a conveyor message larger than agreed")
            connections = wire.decode_inward(data, len(numbers))
            if isinstance(connections, wire.Introduction):
                raise ValueError("an introduction: nobody connects to a site but through the door")
        except ValueError as error:
            for number in numbers:
                os.close(number)
            self._loop.on_error(error)
            return True
        begun: list[int] = []
        held: list[int] = []
        for connection, number in zip(connections, numbers, strict=True):
            once = bool(connection.flags & wire.ONCE)
            arrived = self._connections.arrived(number, connection.serial, once, connection.head)
            (begun if arrived else held).append(connection.serial)
        # "D" says "T" too. Those held are told of when they are answered.
        if begun:
            self._say(wire.encode_done(begun))
        if held:
            self._say(wire.encode_taken(held))
        return True

    def _say(self, data: bytes, number: int = -1) -> None:
        """Send to the door, with descriptor `number`, which is then closed."""
        self._outbox.append((data, number))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        conveyor = self._conveyor
        while self._outbox and conveyor is not None:
            data, number = self._outbox[0]
            rights = array.array("i", [number] if number >= 0 else [])
            try:
                conveyor.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])
            except BlockingIOError:
                self._blocked = True
                self._watch_conveyor()
                return
            except OSError:
                self._lose_conveyor()
                return
            self._outbox.popleft()
            if number >= 0:
                os.close(number)
        if self._blocked:
            self._blocked = False
            self._watch_conveyor()

    def hand_back(self, connection: Connection) -> None:
        """To the door, which knows all routes. Whatever was read goes along."""
        number, data = self._connections.release(connection)
        self._say(wire.encode_back(connection.serial, data), number)

    # — deciding: connection.Decider —

    def plan(self, connection: Connection, head: Head) -> Plan | None:
        host = head.fields.host
        match = self._table.find(host, head.line.path)
        if connection.fresh:
            if match is None:
                return self._unknown(connection, head)
            connection.once = connection.once or host in self._mixed
        elif match is None or host in self._mixed:
            self.hand_back(connection)
            return None
        site = self._sites.get(match.route.release)
        if site is None:
            return self._unopened(connection, head, match.route.release)
        return answer.answer(head, site, match.route.prefix)

    def _unknown(self, connection: Connection, head: Head) -> Plan | None:
        if connection.since + _ROUTE_PATIENCE <= self._loop.time():
            return answer.unknown(head)
        self._connections.hold(connection)
        self._unrouted.append(connection)
        self._loop.call_later(_ROUTE_PATIENCE, lambda: self._give_up(connection))
        return None

    def _unopened(self, connection: Connection, head: Head, release: str) -> Plan | None:
        if release in self._failed:
            return answer.unavailable(head)
        self._connections.hold(connection)
        if release in self._opening:
            self._opening[release].append(connection)
        else:
            self._opening[release] = [connection]
            self._loop.spawn(self._open(release))
        return None

    async def _open(self, release: str) -> None:
        try:
            answered = await self._peer.ask("catalogue.pack", Pack(release), reply=Packed, timeout=_FETCH)
            if len(answered.fds) != 1:
                close_all(answered.fds)
                raise Refused("protocol", f"a pack comes as one descriptor, not {len(answered.fds)}")
            if self._sites.put(Site(release, answered.fds[0])):
                self._connections.hot.drop_gone()
                self._connections.hot_fresh.drop_gone()
        except Exception as error:  # whatever it is about this site, those who wait for it get an answer
            self._loop.on_error(error)
            self._failed.add(release)
            self._loop.call_later(1.0, lambda: self._failed.discard(release))
        for connection in self._opening.pop(release):
            self._continue(connection)

    def _continue(self, connection: Connection) -> None:
        if connection.state == HELD:
            self._connections.resume(connection)
            if connection.state != HELD:
                self._say(wire.encode_done([connection.serial]))

    def _give_up(self, connection: Connection) -> None:
        if connection in self._unrouted:
            self._unrouted.remove(connection)
            self._continue(connection)

    # — what there is to serve —

    def _on_snapshot(self, number: int, routes: list[Route], _: Fd) -> None:
        self._follow(Table(number, routes))
        self._serving.resolve(None)

    def _on_change(self, delta: RouteDelta) -> None:
        self._follow(self._table.with_delta(delta.number, delta.put, delta.gone))

    def _follow(self, table: Table) -> None:
        self._table = table
        self._sites.keep_only({route.release for route in table.routes()})
        self._forget_plans()
        unrouted, self._unrouted = self._unrouted, []
        for connection in unrouted:
            self._continue(connection)

    def _on_mixed(self, asked: Asked[Mixed]) -> None:
        self._told_mixed = True
        self._mixed = frozenset(asked.body.hosts)
        self._forget_plans()

    def _forget_plans(self) -> None:
        self._connections.hot.clear()
        self._connections.hot_fresh.clear()

    def leave(self) -> None:
        """Another one takes over: what it can go on with is deposited for it, the rest goes back to the door."""
        if self._conveyor is None:
            self._loop.stop()
            return
        self._paused = True
        self._watch_conveyor()
        for connection in handover.deposit(self._store, self._connections):
            self.hand_back(connection)
        self._leave_when_said(self._loop.time() + _LEAVE)

    def _leave_when_said(self, deadline: float) -> None:
        if self._outbox and self._conveyor is not None and self._loop.time() < deadline:
            self._loop.call_later(0.01, lambda: self._leave_when_said(deadline))
        else:
            self._loop.stop()

    def close(self) -> None:
        self._connections.close_all()
        self._sites.close()
        if self._conveyor is not None:
            self._loop.unwatch(self._conveyor.fileno())
            self._conveyor.close()


def main(inheritance: Inheritance) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = Loop()
    peer = Peer(loop, inheritance.channel)
    store = Store(loop, inheritance.store)
    static = Static(loop, peer, store, hard)
    loop.signals([signal.SIGTERM], lambda _: static.leave())
    confine("static")
    loop.spawn(static.start())
    loop.run()
    static.close()
