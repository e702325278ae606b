"""The same for event loops: nothing here blocks, and nothing runs in a thread."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from fildes.sdk.channel import Channel, result
from fildes.sdk.program import Face, Unavailable, current

if TYPE_CHECKING:
    import asyncio

_readers: dict[int, int] = {}  # id of an event loop → requests of it that are under way


async def open(name: str) -> Face:
    """Like `sdk.open`, for coroutines. Cancelling it is safe: what comes too late is closed."""
    program = current()
    held = program.held(name)
    if held is not None:
        return held
    return program.wrap(name, *await _ask(program.channel, "open", {"name": name}))


async def connect(name: str) -> socket.socket:
    """A new connection by the connect grant `name`, non-blocking, as event loops want it."""
    sock = await open(name)
    if not isinstance(sock, socket.socket):
        raise Unavailable(f"the grant {name!r} is not a connection; use sdk.open")
    sock.setblocking(False)
    return sock


async def streams(name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection by the connect grant `name`, as asyncio's streams."""
    import asyncio

    sock = await connect(name)
    try:
        if sock.family == socket.AF_UNIX:
            return await asyncio.open_unix_connection(sock=sock)
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


async def _ask(channel: Channel, verb: str, body: dict[str, Any]) -> tuple[Any, list[int]]:
    import asyncio

    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    # By call_soon_threadsafe, because a thread that blocks in `sdk.open` may be the one who reads the answer.
    number, waiting = channel.begin(verb, body, lambda: loop.call_soon_threadsafe(answered.set))
    _watch(loop, channel)
    try:
        await asyncio.wait_for(answered.wait(), 30)
    except TimeoutError:
        channel.give_up(number)
        raise Unavailable("the bus did not answer in time; an operator sees why: fildes ps --all") from None
    except asyncio.CancelledError:
        channel.give_up(number)
        if waiting.done and isinstance(waiting.result, tuple):
            for fd in waiting.result[1]:
                os.close(fd)
        raise
    finally:
        _unwatch(loop, channel)
    return result(waiting)


def _watch(loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
    if not _readers.get(id(loop)):
        loop.add_reader(channel.fileno(), channel.poll)
    _readers[id(loop)] = _readers.get(id(loop), 0) + 1


def _unwatch(loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
    _readers[id(loop)] -= 1
    if not _readers[id(loop)]:
        del _readers[id(loop)]
        loop.remove_reader(channel.fileno())
