"""The socket on which a release's connections arrive.

It belongs to the release, not to an instance, and exists before any instance does. Both ends are in init's fd store
before the sending end leaves this process, so that nothing in its queue dies with a daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import sys
import termios
from collections.abc import Callable
from typing import Final

from fildes.kernel.fds import Fd, Truncated, receive_with_fds, send_with_fds, seqpacket_pair, set_blocking
from fildes.kernel.loop import EPOLLIN, EPOLLRDHUP, Loop
from fildes.wire import conveyor as wire

_MESSAGE: Final = 1280  # bytes that the kernel counts for a connection with an ordinary head
_BUFFER: Final = 4 * 1024 * 1024  # asked for; the kernel gives what net.core.wmem_max allows


class Conveyor:
    def __init__(self, loop: Loop, sending: Fd, receiving: Fd) -> None:
        self._loop = loop
        self.sending = sending  # the door's and the bus's end
        self.receiving = receiving  # the instances' end
        self._watched = False

    @classmethod
    def make(cls, loop: Loop) -> Conveyor:
        sending, receiving = seqpacket_pair(_BUFFER)
        for end in (sending, receiving):
            set_blocking(end.fileno(), False)
        return cls(loop, sending, receiving)

    def waiting(self) -> int:
        """About how many connections wait in the queue now; never 0 when one does."""
        poll = select.poll()
        poll.register(self.receiving.fileno(), select.POLLIN)
        if not poll.poll(0):
            return 0
        held = bytearray(4)
        fcntl.ioctl(self.sending.fileno(), termios.TIOCOUTQ, held)  # unix(7) has it as SIOCOUTQ
        return -(-int.from_bytes(held, sys.byteorder) // _MESSAGE) or 1

    @property
    def broken(self) -> bool:
        """Whether an instance has shut it down (shutdown(2)): nothing goes through it any more."""
        poll = select.poll()
        poll.register(self.receiving.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def watch(self, wanted: Callable[[], object]) -> None:
        """Call `wanted` once, when something waits in the queue."""
        if self._watched or self.broken:  # that would be readable for ever
            return
        self._watched = True

        def readable(events: int) -> None:
            self.unwatch()
            if not events & EPOLLRDHUP:
                wanted()

        self._loop.watch(self.receiving.fileno(), EPOLLIN | EPOLLRDHUP, readable)

    def unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.unwatch(self.receiving.fileno())

    def hand_back(self) -> int:
        """Return every connection that waits to the door, which answers or routes it anew. How many they were.

        Instances hold the same description of the receiving end, and one may have made it blocking: each call says
        itself that it does not wait.
        """
        count = 0
        dont_wait = socket.MSG_DONTWAIT
        while True:
            try:
                received = receive_with_fds(self.receiving.fileno(), wire.MAX_DATAGRAM, wire.MAX_CONNECTIONS, dont_wait)
            except BlockingIOError:
                return count
            except Truncated:
                continue
            with received:
                if not received.data:
                    return count
                try:
                    waiting = wire.decode_inward(received.data, len(received.fds))
                except ValueError:
                    continue
                if isinstance(waiting, wire.Introduction):
                    continue  # its caller sees the stream closed
                for connection, fd in zip(waiting, received.fds, strict=True):
                    with contextlib.suppress(OSError):  # a full queue, say: the door still has its copy
                        back = wire.encode_back(connection.serial, connection.head)
                        send_with_fds(self.receiving.fileno(), back, [fd.fileno()], dont_wait)
                        count += 1

    def close(self) -> None:
        self.unwatch()
        self.sending.close()
        self.receiving.close()
