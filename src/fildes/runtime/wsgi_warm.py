"""Serve some requests to nobody, without a thread: in the zygote, and in an instance that is to stand by."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Any

from fildes.runtime.warm import CONNECTIONS
from fildes.runtime.wsgi_loop import Program, Serving
from fildes.wire import conveyor

_HEAD = (
    b"GET /items/%d?x=7 HTTP/1.1\r\nHost: warm.localhost\r\nUser-Agent: warm\r\nAccept: */*\r\nCookie: a=b\r\n%b\r\n"
)


def nobodys(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [body + b"warm"]


def warm(program: Program = nobodys, *, connections: int = CONNECTIONS) -> None:
    """Leaves nothing behind: no descriptor, no thread."""
    serving = Serving(program, {})
    door, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    handle, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with door, end, handle, other, contextlib.ExitStack() as clients:
        end.setblocking(False)
        serving.begin(end.fileno(), handle.fileno())
        try:
            for number in range(connections):
                client, theirs = socket.socketpair()
                clients.enter_context(client)
                for one in (client, theirs):
                    one.setblocking(False)
                with theirs:
                    head = _HEAD % (number, b"Connection: close\r\n" if number % 2 else b"")
                    data = conveyor.encode_connections([conveyor.Connection(number, 0, b"127.0.0.1 1", head)])
                    socket.send_fds(door, [data], [theirs.fileno()])
                serving.turn()
                if not number % 2:
                    client.send(_HEAD % (number, b""))
                    serving.turn()
            serving.drain("warm")
        finally:
            serving.dispose()
