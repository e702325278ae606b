"""Options of unix sockets that Python's socket module does not name (unix(7), socket(7))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import socket
import struct
import termios
from typing import Final

SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h, 6.16
SIOCOUTQ: Final = termios.TIOCOUTQ  # the same number, linux/sockios.h

_INT = struct.Struct("i")


def refuse_rights(sock: int) -> bool:
    """Let no descriptor in: whoever sends one to `sock` gets EPERM. False: this kernel can't (before 6.16)."""
    with _Borrowed(sock) as borrowed:
        try:
            borrowed.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            return False
    return True


def limit_queue(sock: int, size: int) -> None:
    """What was sent into `sock` and not received takes at most about twice `size` bytes, overhead included."""
    with _Borrowed(sock) as borrowed:
        borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def end(sock: int) -> None:
    """End the connection for both sides, whoever else holds a descriptor of it (shutdown(2))."""
    with _Borrowed(sock) as borrowed, contextlib.suppress(OSError):  # ENOTCONN: it has ended before
        borrowed.shutdown(socket.SHUT_RDWR)


def unread(sock: int) -> int:
    """Bytes of send buffer held by what the peer has not received, the kernel's overhead included. 0: it has it all."""
    value: int = _INT.unpack(fcntl.ioctl(sock, SIOCOUTQ, bytes(4)))[0]
    return value


@functools.cache
def smallest_charge() -> int:
    """What `unread` says of one datagram of a few bytes on this kernel."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.send(b"?")
        return max(1, unread(one.fileno()))


class _Borrowed:
    """A socket object around a descriptor that somebody else owns."""

    __slots__ = ("_socket",)

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=number)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.detach()
