"""A TCP connection, made without holding up the loop: each address in turn, each with its share of the time."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLERR, EPOLLHUP, EPOLLOUT, Loop, Promise

SECONDS: Final = 12.0
LEAST: Final = 2.0  # seconds that every address gets


class Unreachable(Exception):
    """No address answered; the text names each and what it said."""


async def dial(loop: Loop, addresses: Sequence[str], port: int) -> Fd:
    """A connected socket, non-blocking, TCP_NODELAY. Raises Unreachable."""
    deadline = loop.time() + SECONDS
    said = []
    for index, address in enumerate(addresses[:8]):
        left = deadline - loop.time()
        if left <= 0:
            break
        share = max(LEAST, left / (min(len(addresses), 8) - index))
        try:
            return await _connect(loop, address, port, share)
        except OSError as error:
            said.append(f"{address}: {error.strerror or error}")
    raise Unreachable("; ".join(said) or "no address left to try")


async def _connect(loop: Loop, address: str, port: int, seconds: float) -> Fd:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        code = sock.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            await _writable(loop, sock.fileno(), seconds)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Fd(sock.detach())
    finally:
        sock.close()


async def _writable(loop: Loop, fd: int, seconds: float) -> None:
    promise: Promise[None] = Promise(loop)
    timer = loop.call_later(
        seconds, lambda: promise.fail(OSError(errno.ETIMEDOUT, f"no answer within {seconds:.0f} s"))
    )
    loop.watch(fd, EPOLLOUT | EPOLLERR | EPOLLHUP, lambda _: promise.resolve(None))
    try:
        await promise
    finally:
        timer.cancel()
        loop.unwatch(fd)
