"""The sockets through which a node is reached: HTTP on addresses, operators in the state directory."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from typing import Final

from fildes.init.ground import Trouble
from fildes.init.tidy import CONTROL
from fildes.kernel.fds import Fd, close_all

BACKLOG: Final = 4096  # net.core.somaxconn may give less
DEFER: Final = 5  # seconds for which a connection without a byte does not wake anybody


def parse_address(text: str) -> tuple[str, int]:
    """ "127.0.0.1:8080", "[::1]:8080", ":8080" (every address, of IPv4 and IPv6) → (host, port). Raises Trouble."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise Trouble(f"--http {text}: write an address and a port, like 127.0.0.1:8080 or [::1]:8080")
    return host.strip("[]"), int(port)


def open_all(texts: Iterable[str]) -> list[tuple[Fd, str]]:
    """The listening sockets of all `--http`, with their addresses. Raises Trouble; nothing is open then."""
    opened: list[tuple[Fd, str]] = []
    try:
        for text in texts:
            if parse_address(text)[0]:
                opened.append(open_http(text))
                continue
            # Two sockets: one of IPv6 for both would show addresses of IPv4 in another form, and takes "0.0.0.0" too.
            opened.append(open_http("0.0.0.0" + text))
            if socket.has_ipv6 and _has_ipv6():
                opened.append(open_http(f"[::]:{opened[-1][1].rpartition(':')[2]}"))
    except BaseException:
        close_all([fd for fd, _ in opened])
        raise
    return opened


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::", 0))
    except OSError:
        return False
    return True


def open_http(text: str) -> tuple[Fd, str]:
    """A listening socket on `text`, and the address that it got ("host:port"). Raises Trouble."""
    host, port = parse_address(text)
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
        )
    except OSError as error:
        raise Trouble(f"--http {text}: {host!r} is not an IP address of this machine") from error
    with socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER)
        try:
            sock.bind(address)
            sock.listen(BACKLOG)
        except PermissionError as error:
            raise Trouble(
                f"--http {text}: port {port} needs root; take one above 1023, or let everybody use it with "
                f"`sysctl net.ipv4.ip_unprivileged_port_start={port}`"
            ) from error
        except OSError as error:
            raise Trouble(f"--http {text}: {_why(error, host)}") from error
        name = sock.getsockname()
        shown = f"[{name[0]}]:{name[1]}" if family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
        return Fd(sock.detach()), shown


def _why(error: OSError, host: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there (`ss -ltnp` shows which); end it, take another port, or 0 for a free one"
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return f"{host} is no address of this machine; `ip address` lists them, and :PORT means all of them"
    return f"{error.strerror}; take another port, or 0 for any that is free"


def open_control(directory: int, *, for_all: bool) -> Fd:
    """The operators' socket in the state directory (borrowed), in place of one that a killed node left.

    `for_all`: every user of the machine may connect, and the debug process looks at who it is. Made before the user
    namespace, so that the kernel attests the peer's uid as it is on the machine.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(CONTROL, dir_fd=directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        before = os.umask(0o111 if for_all else 0o177)
        try:
            sock.bind(control_path(directory))
        finally:
            os.umask(before)
        sock.listen(64)
        return Fd(sock.detach())


def control_path(directory: int) -> str:
    """The path of the control socket by way of the open state directory: a socket's path holds 107 bytes."""
    return f"/proc/self/fd/{directory}/{CONTROL}"
