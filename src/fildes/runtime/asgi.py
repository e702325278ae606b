"""The ASGI runtime: `load` in the zygote, `serve` in each instance that is forked from it.

    load(settings) -> Program        imports the program, makes its one event loop; nothing is running afterwards
    serve(program, kit, lock) -> int renews the loop's descriptors, locks, starts the program up, answers until the end

`serve` calls `lock` when the loop runs, before any of the program's code and before it looks at `kit.conveyor`: that is
where an instance waits that was forked ahead of whoever needs it. True is returned if it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fildes.runtime import frameworks, warm, websocket
from fildes.runtime.date import Dater
from fildes.runtime.kit import Kit
from fildes.runtime.lifespan import Lifespan, StartupFailed
from fildes.runtime.loop import Serving
from fildes.runtime.program import find
from fildes.runtime.renew import Holdings, open_numbers

# What programs and the loop import in their first request otherwise, when there are no files any more.
_LATER = ("encodings.idna", "mimetypes", "traceback", "linecache", "concurrent.futures.thread")

EX_STARTUP = 3  # the program's startup failed
SHUTDOWN = 10.0  # s for the program's shutdown


class Program:
    """A loaded program, ready to be forked."""

    def __init__(self, serving: Serving, holdings: Holdings) -> None:
        self.serving = serving
        self.holdings = holdings
        self.pid = os.getpid()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.serving.loop

    def renew(self) -> None:
        """After a fork: descriptors of the loop's own. Nothing to do where they are its own already."""
        if os.getpid() != self.pid:
            self.holdings.renew()
            self.renewed()

    def renewed(self) -> None:
        """They were renewed by somebody else (shim/fork.c)."""
        self.pid = os.getpid()


def load(settings: dict[str, Any], wrap: Callable[[Any], Any] = lambda found: found) -> Program:
    """Import the program and everything that it may need later. Raises CannotLoad, or what its own import raises.

    `wrap` makes an ASGI program of what `entry` names.
    """
    before = open_numbers()
    loop = _new_loop()
    asyncio.set_event_loop(loop)
    websocket.bring()
    for name in _LATER:
        importlib.import_module(name)
    importlib.import_module("mimetypes").init()
    own = open_numbers() - before
    program = wrap(find(settings["entry"], settings.get("paths") or ()))
    for prefix in ("anyio", "sniffio"):
        if prefix in sys.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module("anyio._backends._asyncio" if prefix == "anyio" else prefix)
    if settings.get("access_log"):
        program = importlib.import_module("fildes.runtime.access").wraps_asgi(program)
    now = open_numbers()
    serving = Serving(loop, program, settings)
    # What the program itself opened while it was imported is the program's.
    holdings = Holdings.since(before | (now - own))
    # Whatever the program set: a client that hangs up is an error of write(2), not our end.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    return Program(serving, holdings)


def practise(_: Program) -> list[Callable[[], None]]:
    """An instance's life with a program of ours, and with one on the framework that the program uses. In the zygote."""
    make = frameworks.programs()
    programs = [warm.nobodys, *([make()] if make is not None else [])]
    return [partial(warm.live, _new_loop(), program, _practised) for program in programs]


async def _practised(serving: Serving, kit: Kit) -> int:
    return await _serve(serving, kit, os.getpid)


def serve(program: Program, kit: Kit, lock: Callable[[], object]) -> int:
    """Answer what comes in over `kit.conveyor` until the instance is told to end, or idle. The exit status."""
    program.renew()
    return program.loop.run_until_complete(_serve(program.serving, kit, lock))


async def _serve(serving: Serving, kit: Kit, lock: Callable[[], object]) -> int:
    if lock():
        await asyncio.sleep(0)  # a loop reads the clock once a round, and this one may have taken hours
    lifespan = Lifespan(serving.loop, serving.program, serving.state)
    try:
        await lifespan.startup()
    except StartupFailed as failed:
        print(f"fildes: {kit.settings.get('service', 'the program')} can't start: {failed}", file=sys.stderr)
        return EX_STARTUP
    if kit.of_kind("clock"):
        serving.dater = Dater(serving.time, time.time)
    serving.ending.spared = {asyncio.current_task(), lifespan.task}
    if kit.settings.get("stays"):
        serving.ending.on_idle = lambda: _say(kit, b"Z")
        await warm.rehearse(serving, kit)
    over = serving.begin(kit.conveyor, kit.handle)
    _say(kit, b"R")  # a publish waits for this word
    await over
    if serving.ending.why == "idle":
        _say(kit, b"I")
    try:
        await asyncio.wait_for(lifespan.shutdown(), SHUTDOWN)
    except TimeoutError:
        print(f"fildes: the program's shutdown took more than {SHUTDOWN:.0f} s", file=sys.stderr)
    return 0


def _say(kit: Kit, word: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(kit.handle, word)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
