"""The way to the package indexes, and to nothing else: an HTTP proxy on a listening socket that came as a descriptor.

The socket lives in the resolver's network namespace, which has only a loopback. CONNECT (RFC 9110, 9.3.6) to the
configured host:port pairs is served, and requests in absolute form (RFC 9112, 3.2.2) to those of them that are plain
http. Everything else gets 403.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from fildes.drivers.net.dial import Unreachable, dial
from fildes.drivers.net.lookup import Lookup, NotFound
from fildes.drivers.net.pump import Pump
from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN, Loop, Promise

MAX_CONNECTIONS: Final = 32
MAX_HEAD: Final = 8192  # bytes
HEAD_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 90.0

_LINE: Final = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,4096}) HTTP/1\.[01]\r\n")


def target(head: bytes) -> tuple[str, int, bool] | None:
    """(host, port, whether to tunnel) that a request's head asks for; None if it is no proxy request."""
    match = _LINE.match(head)
    if match is None:
        return None
    tunnel = match[1] == b"CONNECT"
    try:
        parts = urlsplit(("//" if tunnel else "") + match[2].decode("ascii"))
        port = parts.port or 80
    except ValueError:
        return None
    if not parts.hostname or parts.username is not None or (parts.scheme != "http" and not tunnel):
        return None
    if tunnel and (parts.port is None or parts.path or parts.query):
        return None
    return parts.hostname, port, tunnel


def allowed(host: str, port: int, hosts: Collection[str]) -> bool:
    name = f"[{host}]" if ":" in host else host
    return f"{name.lower().rstrip('.')}:{port}" in hosts


class IndexProxy:
    """Serves `listener` until `close`. Owns it. `hosts`: "host:port", lower case."""

    def __init__(self, loop: Loop, lookup: Lookup, listener: Fd, hosts: Collection[str]) -> None:
        self._loop, self._lookup, self._hosts = loop, lookup, hosts
        self._listener = socket.socket(fileno=listener.take())
        self._listener.setblocking(False)
        self._open: dict[int, Callable[[], object]] = {}
        self._count = 0
        self._full = False
        self._closed = False
        loop.watch(self._listener.fileno(), EPOLLIN, self._accept)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            for close in list(self._open.values()):
                close()

    def _accept(self, _: int) -> None:
        try:
            sock, _peer = self._listener.accept()
        except OSError:
            return
        self._count += 1
        number = self._count
        fd = Fd(sock.detach())
        task = self._loop.spawn(self._serve(number, fd))
        self._open.setdefault(number, task.cancel)
        if len(self._open) >= MAX_CONNECTIONS and not self._full:
            self._full = True
            self._loop.unwatch(self._listener.fileno())  # the rest wait in the backlog

    def _ended(self, number: int) -> None:
        self._open.pop(number, None)
        if self._full and not self._closed:
            self._full = False
            self._loop.watch(self._listener.fileno(), EPOLLIN, self._accept)

    async def _serve(self, number: int, client: Fd) -> None:
        handed_over = False
        try:
            head = await self._head(client)
            if head is None:
                return
            asked = target(head)
            if asked is None:
                await self._answer(client, 400, "this proxy answers CONNECT, and requests for http addresses")
                return
            host, port, tunnel = asked
            if not allowed(host, port, self._hosts):
                await self._answer(client, 403, f"{host}:{port} is not one of this node's package indexes")
                return
            try:
                server = await dial(self._loop, await self._lookup.addresses(host), port)
            except (NotFound, Unreachable) as error:
                await self._answer(client, 502, f"{host}:{port} can't be reached: {error}")
                return
            end = head.index(b"\r\n\r\n") + 4
            pump = Pump(
                self._loop, client, server, idle=IDLE_SECONDS, on_done=lambda: self._ended(number),
                to_one=b"HTTP/1.1 200 Connected\r\n\r\n" if tunnel else b"",
                to_other=head[end:] if tunnel else head,
            )  # fmt: skip
            handed_over = True
            self._open[number] = pump.close
        finally:
            if not handed_over:
                client.close()
                self._ended(number)

    async def _head(self, client: Fd) -> bytes | None:
        """Everything up to the empty line at least; None if it doesn't come, or is too long."""
        head = b""
        sock = socket.socket(fileno=client.fileno())
        sock.setblocking(False)
        deadline = self._loop.time() + HEAD_SECONDS
        try:
            while b"\r\n\r\n" not in head:
                if len(head) > MAX_HEAD or not await self._readable(client.fileno(), deadline - self._loop.time()):
                    return None
                try:
                    part = sock.recv(MAX_HEAD)
                except BlockingIOError:
                    continue
                except OSError:
                    return None
                if not part:
                    return None
                head += part
        finally:
            sock.detach()
        return head

    async def _readable(self, fd: int, seconds: float) -> bool:
        promise: Promise[bool] = Promise(self._loop)
        timer = self._loop.call_later(max(seconds, 0.0), lambda: promise.resolve(False))
        self._loop.watch(fd, EPOLLIN, lambda _: promise.resolve(True))
        try:
            return await promise
        finally:
            timer.cancel()
            self._loop.unwatch(fd)

    async def _answer(self, client: Fd, status: int, text: str) -> None:
        body = (text + "\n").encode()
        reason = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        sock = socket.socket(fileno=client.fileno())
        try:
            sock.send(head.encode() + b"Connection: close\r\n\r\n" + body, socket.MSG_NOSIGNAL)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it did not wait for the answer
        finally:
            sock.detach()
