"""Names → addresses, without holding up the loop: getaddrinfo(3) in a thread for as long as it takes.

There is no other way to honour the machine's own configuration (hosts, nsswitch, resolv.conf). Threads are made
when there is something to look up and end with it: an idle driver has one thread, and wakes up for nothing.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN, Loop, Promise

MAX_THREADS: Final = 8
MAX_WAITING: Final = 256
SECONDS: Final = 10.0

Found = list[str]


class NotFound(Exception):
    """No address; the text says why, in the resolver's words."""


class Lookup:
    def __init__(self, loop: Loop, resolve: Callable[[str], Found] | None = None) -> None:
        self._loop = loop
        self._resolve = resolve or addresses_of
        self._waiting: deque[tuple[str, Promise[Found]]] = deque()
        self._finished: deque[tuple[Promise[Found], Found | Exception]] = deque()
        self._running = 0
        self._wake = Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        loop.watch(self._wake.fileno(), EPOLLIN, self._woken)

    def close(self) -> None:
        self._loop.unwatch(self._wake.fileno())
        self._wake.close()

    async def addresses(self, host: str) -> Found:
        """The addresses of `host`, in the order to try. Raises NotFound."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        if len(self._waiting) >= MAX_WAITING:
            raise NotFound("too many names are being looked up; try again in a moment")
        promise: Promise[Found] = Promise(self._loop)
        timer = self._loop.call_later(SECONDS, lambda: promise.fail(NotFound(f"no answer within {SECONDS:g} s")))
        self._waiting.append((host, promise))
        self._start()
        try:
            return await promise
        finally:
            timer.cancel()

    def _start(self) -> None:
        while self._waiting and self._running < MAX_THREADS:
            host, promise = self._waiting.popleft()
            if promise.done:  # given up on while it waited
                continue
            self._running += 1
            threading.Thread(target=self._work, args=(host, promise), daemon=True).start()

    def _work(self, host: str, promise: Promise[Found]) -> None:
        try:
            result: Found | Exception = self._resolve(host)
        except Exception as error:
            result = NotFound(getattr(error, "strerror", None) or str(error))
        self._finished.append((promise, result))
        os.eventfd_write(self._wake.fileno(), 1)

    def _woken(self, _: int) -> None:
        os.eventfd_read(self._wake.fileno())
        while self._finished:
            promise, result = self._finished.popleft()
            self._running -= 1
            if isinstance(result, Exception):
                promise.fail(result)
            else:
                promise.resolve(result)
        self._start()


def addresses_of(host: str) -> Found:
    """getaddrinfo(3), each address once, in its order (RFC 6724). Blocks. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
