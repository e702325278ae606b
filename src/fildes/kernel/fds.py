"""The owner of a file descriptor, and passing descriptors over unix sockets.

Words in names say who owns what afterwards: `take` gives a number away, `dup` makes a second owner,
a plain `int` parameter is borrowed for the length of the call.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Final

SCM_RIGHTS: Final = socket.SCM_RIGHTS
SCM_CREDENTIALS: Final = 0x02
SCM_PIDFD: Final = 0x04  # linux/socket.h, 6.5
SO_PASSCRED: Final = 16
SO_PASSPIDFD: Final = 76  # asm-generic/socket.h, 6.5
SO_PEERPIDFD: Final = 77

_INT = struct.Struct("i")
_UCRED = struct.Struct("iII")  # pid_t pid; uid_t uid; gid_t gid (unix(7))


class Fd:
    """One open file descriptor with one owner: this object.

    It forgets its number when it is closed or taken, so that a stale owner can't close somebody else's
    descriptor. Dropped without `close`, it closes and warns: a leak is a bug.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    @classmethod
    def open(cls, path: str | bytes, flags: int, mode: int = 0, dir_fd: int | None = None) -> Fd:
        """open(2), close-on-exec."""
        return cls(os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd))

    def fileno(self) -> int:
        """The number, borrowed. Raises ValueError once closed or taken."""
        if self._number < 0:
            raise ValueError("this Fd was closed or taken before")
        return self._number

    @property
    def closed(self) -> bool:
        return self._number < 0

    def take(self) -> int:
        """Give ownership of the number to the caller."""
        number = self.fileno()
        self._number = -1
        return number

    def dup(self) -> Fd:
        """A second descriptor of the same description, close-on-exec."""
        return Fd(fcntl.fcntl(self.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))

    def close(self) -> None:
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def __enter__(self) -> Fd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Fd({self._number})" if self._number >= 0 else "Fd(closed)"

    def __del__(self) -> None:
        if self._number >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def close_all(fds: Sequence[Fd]) -> None:
    """Close every one of `fds`; already closed ones are passed over."""
    for fd in fds:
        fd.close()


def dup(number: int) -> Fd:
    """A new owner of a duplicate of the borrowed `number`, close-on-exec."""
    return Fd(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 0))


def name(number: int) -> str:
    """What /proc calls the description behind the borrowed `number`: a path, "socket:[inode]", "pipe:[inode]", …"""
    return os.readlink(f"/proc/self/fd/{number}")


def set_blocking(number: int, blocking: bool) -> None:
    os.set_blocking(number, blocking)


def set_inheritable(number: int, inheritable: bool) -> None:
    os.set_inheritable(number, inheritable)


class Truncated(OSError):
    """A datagram or its control data did not fit; what had arrived of it was closed."""


class Received:
    """One datagram: its bytes, its descriptors (owned by whoever holds this), and who sent it.

    `pid`, `uid`, `gid` are −1 and `pidfd` is None unless the socket has SO_PASSCRED and SO_PASSPIDFD.
    An empty `data` is the end of the stream.
    """

    __slots__ = ("data", "fds", "gid", "pid", "pidfd", "uid")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fds: list[Fd] = []
        self.pidfd: Fd | None = None
        self.pid = self.uid = self.gid = -1

    def close(self) -> None:
        close_all(self.fds)
        if self.pidfd is not None:
            self.pidfd.close()

    def __enter__(self) -> Received:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Socket(socket.socket):
    """A socket object around a borrowed descriptor; it never closes it."""

    __slots__ = ()


def _borrow(number: int) -> socket.socket:
    # Family and type are given, so that no getsockopt is spent on finding them out.
    return _Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)


def send_with_fds(sock: int, data: bytes, fds: Sequence[int] = (), flags: int = 0) -> None:
    """sendmsg(2) of one datagram with `fds` (borrowed) as SCM_RIGHTS.

    Raises BlockingIOError when the queue is full, BrokenPipeError when nobody holds the other end,
    and OSError(ETOOMANYREFS) when an unprivileged sender has too many descriptors in flight.
    """
    control = [(socket.SOL_SOCKET, SCM_RIGHTS, array.array("i", fds))] if fds else []
    borrowed = _borrow(sock)
    try:
        borrowed.sendmsg([data], control, flags | socket.MSG_NOSIGNAL)
    finally:
        borrowed.detach()


def receive_with_fds(sock: int, max_bytes: int = 65536, max_fds: int = 16, flags: int = 0) -> Received:
    """recvmsg(2) of one datagram; received descriptors are close-on-exec.

    Raises Truncated when data or control data did not fit (`socket.recv_fds` drops that flag), and
    BlockingIOError when there is nothing.
    """
    # CMSG_SPACE rounds up and could let one more descriptor in: the count is checked below.
    room = socket.CMSG_SPACE(max_fds * 4) + socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(4)
    borrowed = _borrow(sock)
    try:
        data, control, result, _ = borrowed.recvmsg(max_bytes, room, flags | socket.MSG_CMSG_CLOEXEC)
    finally:
        borrowed.detach()
    received = Received(data)
    for level, kind, payload in control:
        if level != socket.SOL_SOCKET:
            continue
        if kind == SCM_RIGHTS:
            received.fds += [Fd(n) for (n,) in _INT.iter_unpack(payload[: len(payload) // 4 * 4])]
        elif kind == SCM_CREDENTIALS and len(payload) >= _UCRED.size:
            received.pid, received.uid, received.gid = _UCRED.unpack_from(payload)
        elif kind == SCM_PIDFD and len(payload) >= 4:
            number = _INT.unpack_from(payload)[0]
            received.pidfd = Fd(number) if number >= 0 else None
    if result & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or len(received.fds) > max_fds:
        received.close()
        what = "its data" if result & socket.MSG_TRUNC else "its descriptors"
        raise Truncated(f"a datagram was larger than agreed: {what} did not fit and it was dropped")
    return received


def seqpacket_pair(buffer: int | None = None) -> tuple[Fd, Fd]:
    """A connected pair of SOCK_SEQPACKET unix sockets; `buffer` bytes of send buffer for both ends."""
    return _pair(socket.SOCK_SEQPACKET, buffer)


def stream_pair() -> tuple[Fd, Fd]:
    """A connected pair of SOCK_STREAM unix sockets."""
    return _pair(socket.SOCK_STREAM, None)


def _pair(kind: int, buffer: int | None) -> tuple[Fd, Fd]:
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    if buffer is not None:
        for end in (one, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    return Fd(one.detach()), Fd(other.detach())
