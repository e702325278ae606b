"""The WSGI runtime: `load` in the zygote, `serve` in each instance that is forked from it.

load(settings) -> Serving          imports the program; no thread and no descriptor is left by that
serve(serving, kit, lock) -> int   locks, starts its threads, answers until the end
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fildes.runtime import frameworks, wsgi_warm
from fildes.runtime.date import Dater
from fildes.runtime.kit import Kit
from fildes.runtime.program import find
from fildes.runtime.wsgi_loop import Program, Serving

# What programs import in their first request otherwise, when there are no files any more.
LATER = ("encodings.idna", "mimetypes", "traceback", "linecache", "concurrent.futures.thread")
SWITCH = 0.001  # s that a thread may compute while others wait: the leader should not be one of them for long


def load(settings: dict[str, Any]) -> Serving:
    """Import the program and everything that it may need later. Raises CannotLoad, or what its own import raises."""
    prepare()
    return settle(find(settings["entry"], settings.get("paths") or ()), settings)


def prepare() -> None:
    for name in LATER:
        importlib.import_module(name)
    importlib.import_module("mimetypes").init()
    wsgi_warm.warm()


def settle(program: Program, settings: dict[str, Any]) -> Serving:
    """The last of loading."""
    if settings.get("access_log"):
        program = importlib.import_module("fildes.runtime.access").wraps_wsgi(program)
    serving = Serving(program, settings)
    # Whatever the program set: a client that hangs up is an error of write(2), not our end.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    return serving


def practise(_: Serving) -> list[Callable[[], None]]:
    """Requests to a program of ours, and to one on the framework that the program uses. In the zygote."""
    make = frameworks.wsgi_programs()
    programs = [wsgi_warm.nobodys, *([make()] if make is not None else [])]
    return [partial(wsgi_warm.warm, program) for program in programs]


def serve(serving: Serving, kit: Kit, lock: Callable[[], object]) -> int:
    """Answer what comes in over `kit.conveyor` until the instance is told to end, or idle. The exit status."""
    lock()
    sys.setswitchinterval(SWITCH)
    if kit.of_kind("clock"):
        serving.dater = Dater(serving.time, time.time)
    if kit.settings.get("stays"):
        serving.on_idle = lambda: _say(kit, b"Z")
        _rehearse(kit)
    serving.begin(kit.conveyor, kit.handle)
    _say(kit, b"R")  # a publish waits for this word
    serving.crew.run()
    if serving.why == "idle":
        _say(kit, b"I")
    # As at the end of any Python program; the process ends by _exit(2), which would leave it out.
    atexit._run_exitfuncs()
    return 0


def _rehearse(kit: Kit) -> None:
    """As warm.rehearse, but never with the program's own: one that does not return could not be given up."""
    waiting = select.poll()
    waiting.register(kit.conveyor, select.POLLIN)
    if not waiting.poll(0):
        wsgi_warm.warm(connections=2)


def _say(kit: Kit, word: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(kit.handle, word)
