"""A fork without what the interpreter does around one for the sake of threads, of which a zygote has one.

PyOS_AfterFork_Child makes every lock of the interpreter anew, and the handlers of threading, logging, asyncio and
concurrent.futures do so with theirs: locks that nobody can hold, at a cost of 60 copied pages. With one thread all that
is left to do is to call the handlers of others. The C library's own handlers (pthread_atfork(3)) run as ever: what
libraries keep of their random numbers hangs on them.

`record` has to be called before anything registers a handler: the interpreter's list of them can't be read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import posix
import sys
from collections.abc import Callable
from typing import Final

_VERSIONS: Final = frozenset({(3, 12), (3, 13)})  # whose PyOS_AfterFork_Child was read for this
_LOCKS_ONLY: Final = frozenset({"threading", "logging", "asyncio.events", "concurrent.futures.thread"})

_Handler = Callable[[], object] | None
_handlers: list[tuple[_Handler, _Handler, _Handler]] = []  # before, in the parent, in the child
_plain = os.register_at_fork
_recorded = False
_fork = ctypes.PyDLL(None, use_errno=True).fork  # with the interpreter's lock held: the child goes on holding it


def record() -> None:
    """From now on whoever registers a handler is known here too. Its handler stays registered for a plain fork."""
    global _recorded
    if not _recorded and "asyncio" not in sys.modules and "logging" not in sys.modules:
        _recorded = True
        os.register_at_fork = posix.register_at_fork = _register


def _register(*, before: _Handler = None, after_in_child: _Handler = None, after_in_parent: _Handler = None) -> None:
    given = {"before": before, "after_in_child": after_in_child, "after_in_parent": after_in_parent}
    _plain(**{name: handler for name, handler in given.items() if handler is not None})
    if sys._getframe(1).f_globals.get("__name__") not in _LOCKS_ONLY:
        _handlers.append((before, after_in_parent, after_in_child))


def bare() -> bool:
    """Whether fork(3) is all there is to do: nothing has a handler that would have to be called."""
    return _can_do_without() and not _handlers


def _can_do_without() -> bool:
    known = sys.version_info[:2] in _VERSIONS and sys.implementation.name == "cpython"
    return known and _recorded and len(sys._current_frames()) == 1


def fork() -> int:
    """As os.fork. Plain where this interpreter is not known to do without, and in a process with threads."""
    if not _can_do_without():
        return os.fork()
    for before, _, _ in reversed(_handlers):
        _call(before)
    pid: int = _fork()
    for _, in_parent, in_child in _handlers:
        _call(in_parent if pid else in_child)
    if pid < 0:
        raise OSError(ctypes.get_errno(), f"fork: {os.strerror(ctypes.get_errno() or errno.EAGAIN)}")
    return pid


def _call(handler: _Handler) -> None:
    """What a handler raises is printed, and stops nothing: so it is with os.fork."""
    if handler is None:
        return
    try:
        handler()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
