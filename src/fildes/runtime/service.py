"""The service runtime: `main(caps)`, which runs for as long as it likes. No HTTP.

    load(settings) -> main             imports the program
    serve(main, kit, lock) -> int      runs it: 0 when it returns, 1 when it raises, else what it exits with

One thread of ours waits for the word to stop. What `main` is given: `fildes.sdk.service`.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextlib
import gc
import importlib
import inspect
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from fildes.runtime.kit import Kit
from fildes.runtime.program import CannotLoad, find
from fildes.runtime.wsgi import LATER
from fildes.sdk.service import Caps

GRACE = 30.0  # s from the word to stop until the end
PATIENCE = 1.0  # s of that until a program is interrupted that asks for no such word

Main = Callable[[Caps], Any]


def load(settings: dict[str, Any]) -> Main:
    """Import the program. Raises CannotLoad, or what its own import raises."""
    for name in (*LATER, "asyncio"):
        importlib.import_module(name)
    main = find(settings["entry"], settings.get("paths") or ())
    try:
        inspect.signature(main).bind(object())
    except TypeError as error:
        text = "it is called with one argument, its capabilities: def main(caps)"
        raise CannotLoad(f'entry = "{settings["entry"]}": {text}') from error
    except ValueError:  # of some callables there is none
        pass
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    return main


def serve(main: Main, kit: Kit, lock: Callable[[], object]) -> int:
    lock()
    caps = Caps(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, kit.conveyor))
    grace, patience = (float(kit.settings.get(n) or usual) for n, usual in (("grace", GRACE), ("patience", PATIENCE)))
    stopper = Stopper(caps, kit.handle, grace, patience)
    threading.Thread(target=stopper.run, name="stopper", daemon=True).start()
    with contextlib.suppress(OSError):
        os.write(kit.handle, b"R")  # a publish waits for this word
    status = _run(main, caps, stopper)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late to interrupt
    atexit._run_exitfuncs()
    return status


def _run(main: Main, caps: Caps, stopper: Stopper) -> int:
    try:
        returned = main(caps)
        if inspect.isawaitable(returned):
            with asyncio.Runner() as runner:
                returned = runner.run(_until_stopped(returned, caps, stopper))
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        if stopper.interrupted and isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            return 0
        traceback.print_exception(error, file=sys.stderr)
        return 1
    if returned is not None and not isinstance(returned, int):
        print(
            f"fildes: main returned a {type(returned).__name__}; expected nothing, or an exit status", file=sys.stderr
        )
        return 1
    return int(returned or 0)


async def _until_stopped(coroutine: Any, caps: Caps, stopper: Stopper) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(coroutine)
    stopper.enter(loop.call_soon_threadsafe, task.cancel)
    return await task


class Stopper:
    """Waits for the word, passes it on, and ends the process when that does not help."""

    def __init__(self, caps: Caps, handle: int, grace: float, patience: float) -> None:
        self._caps = caps
        self._handle = handle
        self._grace = grace
        self._patience = patience
        self._lock = threading.Lock()
        # How callbacks are called, and a program that has none is interrupted.
        self._call: Callable[[Callable[[], object]], object] = lambda act: act()
        self._interrupt: Callable[[], object] = _thread.interrupt_main
        self.interrupted = False

    def enter(self, call: Callable[[Callable[[], object]], object], interrupt: Callable[[], object]) -> None:
        """From an event loop: callbacks are its from now on."""
        with self._lock:
            self._call, self._interrupt = call, interrupt

    def run(self) -> None:
        while True:
            try:
                order = os.read(self._handle, 64)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._handle, select.POLLIN)
                poll.poll()
                continue
            except OSError:
                order = b""
            if order == b"?":
                with contextlib.suppress(OSError):
                    os.write(self._handle, b"O")
            elif order in (b"D", b""):
                break
        for callback in self._caps._tell():
            with self._lock:
                call = self._call
            call(lambda callback=callback: _guarded(callback))  # type: ignore[misc]
        self._caps._wake()
        ever = threading.Event()
        ever.wait(self._patience)
        with self._lock:
            if not self._caps._asked:
                self.interrupted = True
                self._call(self._interrupt)
        ever.wait(self._grace)
        print(f"fildes: main did not return in {self._grace:g} s after it was told to stop", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


def _guarded(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        traceback.print_exc()
