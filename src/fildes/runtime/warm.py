"""Live an instance's life in the zygote, for nobody: what instances inherit has then run before.

Without it every instance is the first to run the serving code: the interpreter specialises it, allocates for it and
copies the pages that it writes to, each of which costs 2 µs. The programs that answer here are ours; the tenant's own
runs for requests only, because those may have effects. So does its event loop: it is not turned.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fildes.runtime.connection import Connection
from fildes.runtime.kit import Kit
from fildes.runtime.loop import Serving
from fildes.wire import conveyor

LIMIT: Final = 5.0  # s
CONNECTIONS: Final = 8  # of wsgi_warm
_SETTINGS: Final[dict[str, Any]] = {"service": "warm", "hosts": ["warm.localhost"]}
_HEAD: Final = b"%b HTTP/1.1\r\nHost: warm.localhost\r\nUser-Agent: warm\r\nAccept: */*\r\nCookie: a=b\r\n%b\r\n%b"
_JSON: Final = b'{"key": [1, "value"]}'
_TYPED: Final = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(_JSON)
# What comes on one connection, one after the other; the first rides with it.
_TALKS: Final = (
    (_HEAD % (b"GET /", b"", b""),),
    (_HEAD % (b"GET /model", b"", b""),),
    (_HEAD % (b"GET /items/7?q=text", b"", b""), _HEAD % (b"POST /", _TYPED, _JSON)),
    (_HEAD % (b"GET /", b"Connection: close\r\n", b""),),
)


async def nobodys(scope: dict[str, Any], receive: Any, send: Any) -> None:
    message = await receive()
    if scope["type"] == "lifespan":
        while message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
            message = await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"warm"})


def live(
    loop: asyncio.AbstractEventLoop, program: Any, serve: Callable[[Serving, Kit], Coroutine[Any, Any, object]]
) -> None:
    """From the start to the end, with some requests. It closes `loop`; no descriptor, timer or task is left behind."""
    serving = Serving(loop, program, _SETTINGS)
    with contextlib.ExitStack() as kept:
        kept.callback(loop.close)
        kept.callback(serving.dispose)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for one in (end for pair in pairs for end in pair):
            kept.enter_context(one)
            one.setblocking(False)
        (door, belt), (orchestrator, handle) = pairs
        for number, (first, *others) in enumerate(_TALKS):
            client, theirs = socket.socketpair()
            kept.enter_context(client)
            theirs.setblocking(False)
            with theirs:
                data = conveyor.encode_connections([conveyor.Connection(number, 0, b"127.0.0.1 1", first)])
                socket.send_fds(door, [data], [theirs.fileno()])
            client.sendall(b"".join(others))
        orchestrator.send(b"D")  # when it has answered, it ends
        kit = Kit(conveyor=belt.fileno(), handle=handle.fileno(), channel=-1, settings=_SETTINGS)
        loop.run_until_complete(asyncio.wait_for(serve(serving, kit), LIMIT))


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
        serving.program = nobodys
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
