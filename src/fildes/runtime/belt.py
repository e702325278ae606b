"""An instance's end of its release's conveyor: connections come in, and what became of them goes out."""

from __future__ import annotations

import array
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from select import EPOLLEXCLUSIVE, EPOLLIN
from typing import Any

from fildes.runtime.connection import Connection
from fildes.runtime.fullness import Fullness
from fildes.wire import conveyor

MESSAGES = 4  # times in one go, before other things get their turn
GATHER = 16  # connections, of as many messages as it takes, that are begun together
RETRY = 0.005  # s until the door is told again, when its queue was full

_RECEIVE = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_CONTROL = socket.CMSG_SPACE(4 * conveyor.MAX_CONNECTIONS)


class Belt:
    """`serving` is the loop that it feeds, in coroutines or in threads; `make` is that loop's kind of Connection."""

    def __init__(self, serving: Any, make: Callable[..., Any] = Connection) -> None:
        self.serving = serving
        self.make = make
        self.room = bytearray(conveyor.MAX_DATAGRAM)  # made in the zygote, and shared until it is written to
        self.view = memoryview(self.room)
        self.done: list[Any] = []  # connections whose first byte is being written, and kept ones that have ended
        self._lists: dict[bytes, list[int]] = {b"T": [], b"D": [], b"K": [], b"E": []}  # serials, as they are told
        self._returning: deque[tuple[Connection, bytes]] = deque()
        self._taking = False
        self._retrying = False
        self._socket: socket.socket | None = None
        self.fullness: Fullness | None = None

    def open(self, number: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)

    def dispose(self) -> None:
        if self.fullness is not None:
            self.fullness.close()
        if self._socket is not None:
            self._socket.detach()

    def take(self, wanted: bool) -> None:
        """Whether to receive. What is not received stays in the kernel's queue, for other instances too."""
        if self._socket is None or wanted == self._taking:
            return
        self._taking = wanted
        if self.fullness is not None:
            self.fullness.now(not wanted)
        if wanted:
            # All instances wait on this one description: one of them should wake up.
            self.serving.epoll.register(self._socket, EPOLLIN | EPOLLEXCLUSIVE)
        else:
            self.serving.epoll.unregister(self._socket)

    def receive(self) -> None:
        """Take what is there, and begin with it. The door hears of all that was taken before a program sees any of
        it: whatever that program does to us, they are ours."""
        serving = self.serving
        for _ in range(MESSAGES):
            if not self._taking:
                return
            if serving.is_full():
                self.take(False)
                return
            gathered: list[tuple[Any, bytes]] = []
            more = True
            while more:
                more = self._gather(gathered) and len(gathered) < GATHER and not serving.is_full(len(gathered))
            if not gathered:
                return
            self._tell_taken([connection.serial for connection, _ in gathered if connection.serial >= 0])
            for connection, head in gathered:
                serving.arrived(connection, head)

    def _gather(self, gathered: list[tuple[Any, bytes]]) -> bool:
        """One message; whether there may be more."""
        serving = self.serving
        try:
            size, control, flags, _ = self._socket.recvmsg_into((self.room,), _CONTROL, _RECEIVE)  # type: ignore[union-attr]
        except BlockingIOError:
            return False
        fds = array.array("i")
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) & ~3])
        if not size and not fds:
            serving.ending.drain("nobody is left who could send connections")
            return False
        try:
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                raise ValueError("a conveyor message that did not fit")
            arrived = conveyor.decode_inward(self.view[:size], len(fds))
        except ValueError as error:
            for fd in fds:
                os.close(fd)
            print(f"fildes: dropped {error}", file=sys.stderr)
            return True
        if isinstance(arrived, conveyor.Introduction):
            os.set_blocking(fds[0], False)
            gathered.append((self.make(serving, fds[0], -1, 0, (f"service:{arrived.caller}", 0)), b""))
        else:
            for fd, (serial, marks, peer, head) in zip(fds, arrived, strict=True):
                address, _, port = peer.decode("ascii", "replace").rpartition(" ")
                client = (address, int(port) if port.isdecimal() else 0)
                gathered.append((self.make(serving, fd, serial, marks, client), head))
        return True

    def _tell_taken(self, serials: list[int]) -> None:
        self._lists[b"T"] += serials
        if not self._retrying:
            self.flush()

    def flush(self) -> None:
        """Tell the door what is to be told; try again a little later while its queue is full."""
        if self._socket is None:
            return
        self._retrying = False
        try:
            for word, serials in self._sorted().items():
                if serials:
                    self._socket.send(conveyor.encode_serials(word, serials), _SEND)
                    self._lists[word] = []
            while self._returning:
                self._return(*self._returning[0])
                self._returning.popleft()
        except BlockingIOError:
            self._retrying = True
            self.serving.loop.call_later(RETRY, self.flush)
        except OSError:  # nobody reads them: a door that comes back starts with new serials
            self._lists = {b"T": [], b"D": [], b"K": [], b"E": []}

    def _sorted(self) -> dict[bytes, list[int]]:
        """What is to be told. Connections that were closed at once are done; the door counts those that are kept."""
        lists, done = self._lists, self.done
        while done:  # the same list always: other threads may add to it
            connection = done.pop()
            if connection.kept:
                lists[b"E"].append(connection.serial)
            elif connection.fd < 0:
                lists[b"D"].append(connection.serial)
            else:
                connection.kept = True
                lists[b"K"].append(connection.serial)
                if connection.fd < 0:  # closed this very moment, by a thread that may not have seen the mark
                    lists[b"E"].append(connection.serial)
        return lists

    def hand_back(self, connection: Connection, data: bytes) -> None:
        """Give the connection back to the door, with what was read of its next request."""
        self._returning.append((connection, data))
        if not self._retrying:
            self.flush()

    def _return(self, connection: Connection, data: bytes) -> None:
        if connection.fd < 0:
            return
        try:
            self._socket.sendmsg(  # type: ignore[union-attr]
                (conveyor.encode_back(connection.serial, data),),
                ((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (connection.fd,))),),
                _SEND,
            )
        except BlockingIOError:
            raise
        except OSError:
            self.serving.misdirected(connection)
        else:
            connection.told = True  # the door has it
            connection.kept = False
            self.serving.close(connection)
