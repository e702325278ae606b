"""Connections as the door handles them: plain numbers, and what may be asked of one that was out of its hands.

A connection that was passed on shares its file description with a tenant, who may have set anything on it. So every
call that could wait says MSG_DONTWAIT, and SO_LINGER is cleared before each close: closing the last descriptor of a
lingering connection would hold the whole door up for as long as the tenant chose.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterable
from typing import Any, Final

from fildes.kernel.fds import Fd

Address = tuple[str, int]

_SocketType = socket.SocketType  # the C type: half the price of socket.socket
_NO_LINGER: Final = bytes(8)  # struct linger { int l_onoff; int l_linger; } (socket(7))
_SO_PROTOCOL: Final = 38
_SO_DOMAIN: Final = 39
_ANY: Final = ("0.0.0.0", "::")


class NotOurs(Exception):
    """A descriptor handed back is no connection that the door ever accepted; the sentence says why."""


class Gone(Exception):
    """It is one, but its client is gone."""


def borrow(number: int) -> _SocketType:
    """A socket object around `number`; the caller detaches or closes it."""
    return _SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, number)


def close_passed(number: int) -> None:
    """Close a connection that somebody else held or holds too. Any descriptor may come here."""
    try:
        sock = borrow(number)
    except OSError:
        os.close(number)
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        pass
    finally:
        sock.detach()
        os.close(number)


def read_passed(number: int, most: int) -> bytes:
    """As os.read of a non-blocking connection, whatever others made of it."""
    sock = borrow(number)
    try:
        return sock.recv(most, socket.MSG_DONTWAIT)
    finally:
        sock.detach()


def peer_text(address: tuple[Any, ...]) -> bytes:
    """`("::ffff:192.0.2.1", 4711, 0, 0)` → `b"192.0.2.1 4711"`."""
    host = address[0]
    if ":" in host:
        host = host.removeprefix("::ffff:") if "." in host else host.partition("%")[0]
    return f"{host} {address[1]}".encode()


def local_addresses(listeners: Iterable[socket.socket]) -> tuple[Address, ...]:
    return tuple((str(name[0]), int(name[1])) for name in (listener.getsockname() for listener in listeners))


def believe(number: int, ours: Iterable[Address]) -> bytes:
    """Check that `number` (borrowed), handed back by a tenant, is a connection to one of `ours`; its peer as text.

    Family, type, protocol, state and addresses are the kernel's words. What the tenant may have set is set back.
    Raises NotOurs, or Gone when the client has closed it meanwhile.
    """
    try:
        sock = borrow(number)
    except OSError as error:
        raise NotOurs("it is not a socket") from error
    try:
        return _checked(sock, frozenset(ours))
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.EINVAL, errno.ECONNRESET):
            raise Gone("the client is gone") from error
        raise NotOurs(f"it is not a connection: {error.strerror}") from error
    finally:
        sock.detach()


def _checked(sock: _SocketType, ours: frozenset[Address]) -> bytes:
    option = sock.getsockopt
    if option(socket.SOL_SOCKET, _SO_DOMAIN) not in (socket.AF_INET, socket.AF_INET6):
        raise NotOurs("it is not an internet socket")
    if option(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
        raise NotOurs("it is not a stream")
    if option(socket.SOL_SOCKET, _SO_PROTOCOL) != socket.IPPROTO_TCP:
        raise NotOurs("it is not TCP")
    if option(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise NotOurs("it is a listening socket")
    name = sock.getsockname()
    host, port = str(name[0]).removeprefix("::ffff:"), int(name[1])
    if (host, port) not in ours and not any((wildcard, port) in ours for wildcard in _ANY):
        raise NotOurs(f"it was not accepted here but at {host}:{port}")
    peer = peer_text(sock.getpeername())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, os.O_NONBLOCK)  # clears O_ASYNC too
    return peer


def prepare_listener(fd: Fd) -> socket.socket:
    """A listening socket of init's, as the door wants it: non-blocking, waking it only when a request is there."""
    listener = socket.socket(fileno=fd.take())
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    # So they do this: the answer says that a request arrived whole, and needs no segment before it (tcp(7)). Where the
    # client has more to send, which it may hold back until it hears of us (RFC 896), `acknowledge`.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    return listener


def acknowledge(number: int) -> None:
    """Say at once what has arrived of a request, and what will: no answer does, as it is not whole yet."""
    sock = borrow(number)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    except OSError:  # the client is gone; whoever reads notices
        return
    finally:
        sock.detach()
