"""A connection with a complete head, on its way to a conveyor; and one conveyor's state."""

from __future__ import annotations

import array
import socket
from collections import deque
from typing import Final

from fildes.kernel.loop import EPOLLIN, EPOLLOUT
from fildes.web.credits import Allowance, Budget, Ledger
from fildes.wire import conveyor as wire
from fildes.wire.web import Counted

STATIC: Final = "static"  # the static daemon's conveyor, in place of a release id
BATCH_BYTES: Final = 60 * 1024  # a datagram that is larger carries one connection
SO_COOKIE: Final = 57
SO_PASSCRED: Final = 16
SCM_CREDENTIALS: Final = 2
RECEIVE_BYTES: Final = wire.MAX_DATAGRAM + 4096
# Room for as many descriptors as one message can carry: a truncated one would close them behind our back, and a
# tenant may have made that slow (web/sockets.py).
CONTROL_BYTES: Final = socket.CMSG_SPACE(253 * 4) + socket.CMSG_SPACE(12)

# Of messages that make work without moving a connection forward, what a conveyor may send: a second, and at once.
_NUISANCE_RATE: Final = 4000.0
_NUISANCE_BURST: Final = 4000.0

_SocketType = socket.SocketType


class Past:
    """What is known of a connection beside its peer. Shared where nothing is: FRESH.

    `hops`: how often it came back with nothing answered. `origin`: the conveyor whose instance handed it back, and may
    have kept a copy. `way`: how the proxy at its other end speaks of its clients ("": it is none), and `secure` whether
    that one said that the client speaks TLS. `relay`: this is the inner end of a relay, for one request.
    """

    __slots__ = ("flags", "hops", "origin", "relay", "secure", "way")

    def __init__(
        self,
        hops: int = 0,
        origin: Conveyor | None = None,
        *,
        way: str = "",
        secure: bool = False,
        relay: object = None,
        flags: int = 0,
    ) -> None:
        self.hops = hops
        self.origin = origin
        self.way = way
        self.secure = secure
        self.relay = relay
        self.flags = flags

    @property
    def passed(self) -> bool:
        """Whether somebody else holds or held the connection too: then it must not be shut down."""
        return self.origin is not None

    def later(self, hops: int) -> Past:
        """The same after so many hops."""
        return Past(hops, self.origin, way=self.way, secure=self.secure, relay=self.relay, flags=self.flags)


FRESH: Final = Past()


class Parcel:
    """Whoever holds it owns the descriptor `number`. `who`: see Ledger."""

    __slots__ = ("flags", "head", "head_only", "number", "past", "peer", "serial", "who")

    def __init__(
        self, number: int, peer: bytes, head: bytes, flags: int = 0, past: Past = FRESH, who: bytes = b""
    ) -> None:
        self.number = number
        self.peer = peer
        self.head = head
        self.flags = flags
        self.past = past
        self.serial = 0
        self.who = who
        self.head_only = head.startswith(b"HEAD ")


class Conveyor:
    """`sock` is None while the end is being asked for. `backlog`: what has no credit or found the queue full."""

    __slots__ = (
        "allowance", "backlog", "blocked", "counts", "halted", "ledger", "owner", "paused", "relayed", "release",
        "retired", "returns", "service", "sock",
    )  # fmt: skip

    def __init__(self, release: str, service: str, owner: str, budget: Budget, credit: int) -> None:
        self.release = release
        self.service = service
        self.owner = owner
        self.sock: _SocketType | None = None
        self.backlog: deque[Parcel] = deque()
        self.blocked = False  # waiting for EPOLLOUT
        self.paused = False  # not read for a while: it is a nuisance
        self.retired = False  # another release takes its place
        self.relayed = 0  # requests that the door relays and that have begun to be answered
        self.returns = False  # after a request, as a rule: its host is shared by path
        self.halted = ""  # why nothing is to be sent to it for now
        self.ledger = Ledger(budget, credit)
        self.allowance = Allowance(_NUISANCE_RATE, _NUISANCE_BURST)
        self.counts = Counts()

    @property
    def idle(self) -> bool:
        return not (self.backlog or self.ledger.unacknowledged or self.ledger.taken)

    def has_room(self, who: bytes, most_of_one: int, connections: int) -> bool:
        """Whether one more may go the usual way, with nothing to be asked more closely."""
        ledger = self.ledger
        return (
            not (self.halted or self.retired)
            and len(ledger.unacknowledged) + len(ledger.taken) + len(ledger.kept) + self.relayed < connections
            and (not who or ledger.clients.get(who, 0) < most_of_one)
        )

    @property
    def number(self) -> int:
        """Of its end. Raises ValueError while there is none."""
        if self.sock is None:
            raise ValueError("a conveyor without an end")
        return self.sock.fileno()

    @property
    def events(self) -> int:
        """What to wait for on it."""
        return (0 if self.paused else EPOLLIN) | (EPOLLOUT if self.blocked else 0)

    def attach(self, number: int) -> None:
        """Own the sending end `number`."""
        sock = _SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        self.sock = sock

    def next_batch(self) -> list[Parcel]:
        """The parcels at the head of the backlog that may go now, in one datagram."""
        room = min(self.ledger.room(), wire.MAX_CONNECTIONS, len(self.backlog))
        if room <= 1:
            return [self.backlog[0]] if room else []
        if len(self.backlog) == room and sum([len(parcel.head) for parcel in self.backlog]) < BATCH_BYTES // 2:
            return list(self.backlog)
        batch: list[Parcel] = []
        size = 2
        for parcel in self.backlog:
            size += len(parcel.head) + len(parcel.peer) + 10
            if len(batch) == room or (batch and size > BATCH_BYTES):
                break
            batch.append(parcel)
        return batch

    def send(self, batch: list[Parcel]) -> None:
        """One sendmsg(2). Raises what that raises."""
        if self.sock is None:
            raise BlockingIOError
        data = wire.encode_connections([(p.serial, p.flags, p.peer, p.head) for p in batch])
        numbers = array.array("i", [parcel.number for parcel in batch])
        self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)], socket.MSG_NOSIGNAL)


class Counts:
    """Mutable twin of wire.web.Counted."""

    __slots__ = ("refused", "returned", "sent")

    def __init__(self) -> None:
        self.sent = self.refused = self.returned = 0

    def told(self, waiting: int, queued: int, held: int) -> Counted:
        return Counted(self.sent, self.refused, self.returned, waiting, queued, held)


class Message:
    """What came out of a conveyor, unbelieved. The holder owns the descriptors `numbers`."""

    __slots__ = ("data", "numbers", "pid", "whole")

    def __init__(self, data: bytes, numbers: list[int], pid: int, whole: bool) -> None:
        self.data, self.numbers, self.pid, self.whole = data, numbers, pid, whole


_buffer = bytearray(RECEIVE_BYTES)
_view = memoryview(_buffer)


def receive(sock: _SocketType) -> Message:
    """One datagram. Raises BlockingIOError when there is none."""
    size, control, flags, _ = sock.recvmsg_into([_buffer], CONTROL_BYTES, socket.MSG_CMSG_CLOEXEC)
    numbers: list[int] = []
    pid = 0
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == SCM_CREDENTIALS:
            pid = int.from_bytes(payload[:4], "little", signed=True)
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers += array.array("i", payload[: len(payload) // 4 * 4])
    whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
    return Message(bytes(_view[:size]), numbers, pid, whole)


def same_socket(one: _SocketType, number: int) -> bool:
    """Whether `number` (borrowed) is a descriptor of the same socket as `one`."""
    other = _SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)
    try:
        cookies = [s.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8) for s in (one, other)]
    finally:
        other.detach()
    return cookies[0] == cookies[1]


def is_seqpacket(number: int) -> bool:
    """Whether `number` (borrowed) can be an end of a conveyor at all."""
    try:
        sock = _SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)
    except OSError:
        return False
    try:
        domain = sock.getsockopt(socket.SOL_SOCKET, 39)
        return domain == socket.AF_UNIX and sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_SEQPACKET
    except OSError:
        return False
    finally:
        sock.detach()
