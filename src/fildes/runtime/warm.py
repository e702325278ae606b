"""Serve a few requests in the zygote, to nobody: what instances inherit has then run before.

Without it every instance is the first to run the serving code: the interpreter specialises it, allocates for it and
copies the pages that it writes to, each of which costs 2 µs. The program that answers here is ours; the tenant's own
runs for requests only, because those may have effects.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Any

from fildes.runtime.connection import Connection
from fildes.runtime.kit import Kit
from fildes.runtime.lifespan import Lifespan
from fildes.runtime.loop import Serving
from fildes.wire import conveyor

CONNECTIONS = 8
_HEAD = b"GET /warm?x=%d HTTP/1.1\r\nHost: warm.localhost\r\nUser-Agent: warm\r\nAccept: */*\r\nCookie: a=b\r\n%b\r\n"


async def _program(scope: dict[str, Any], receive: Any, send: Any) -> None:
    message = await receive()
    if scope["type"] == "lifespan":
        while message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
            message = await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"warm"})


def warm(loop: asyncio.AbstractEventLoop) -> None:
    """Leaves nothing behind: no descriptor, no timer, no task."""
    serving = Serving(loop, _program, {})
    try:
        loop.run_until_complete(_run(serving))
    finally:
        serving.dispose()


async def _run(serving: Serving) -> None:
    lifespan = Lifespan(serving.loop, serving.program, serving.state)
    await lifespan.startup()
    door, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    handle, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with door, end, handle, contextlib.ExitStack() as clients:
        with other:
            over = serving.begin(end.fileno(), handle.fileno())
            for number in range(CONNECTIONS):
                client, theirs = socket.socketpair()
                clients.enter_context(client)
                for one in (client, theirs):
                    one.setblocking(False)
                with theirs:
                    head = _HEAD % (number, b"Connection: close\r\n" if number % 2 else b"")
                    data = conveyor.encode_connections([conveyor.Connection(number, 0, b"127.0.0.1 1", head)])
                    socket.send_fds(door, [data], [theirs.fileno()])
                await _answer(client)
                if not number % 2:
                    client.send(_HEAD % (number, b""))
                    await _answer(client)
        await over
    await lifespan.shutdown()


async def rehearse(serving: Serving, kit: Kit) -> None:
    """Answer one request in an instance that is to stand by: its pages are its own before somebody waits for it.

    It goes to the program only where the manifest names a path for it, `health`; else to ours. An instance that
    somebody waits for already does without.
    """
    waiting = select.poll()
    waiting.register(kit.conveyor, select.POLLIN)
    if waiting.poll(0):
        return
    path = str(kit.settings.get("health") or "")
    program = serving.program
    if not path:
        serving.program = _program
    client, theirs = socket.socketpair()
    with client:
        client.setblocking(False)
        theirs.setblocking(False)
        host = serving.address[0]
        head = f"GET {path or '/'} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        try:
            serving.arrived(Connection(serving, theirs.detach(), -1, 0, ("127.0.0.1", 0)), head.encode())
            await _answer_of(client)
        finally:
            serving.program = program


async def _answer_of(client: socket.socket) -> None:
    """Read until its end, for a second at the most."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            while await loop.sock_recv(client, 65536):
                pass


async def _answer(client: socket.socket) -> None:
    for _ in range(100):
        await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            client.recv(4096)
            return
