"""The Python side of shim/fork.c, which waits for orders and takes a new instance's first steps.

    zygote                                        C, in `next`
    Server(…) ── what an instance needs ────────► prepared once
    next() ─────────────────────────────────────► waits; forks on each plain start, says how each of its children ended
    MESSAGE: decode, do it here ◄──────────────── an order of another kind: a command, a program with threads
    ENDED: one that Python forked ◄────────────── a child that C does not know
    INSTANCE: this is the child ◄──────────────── descriptors of its own, its cgroup, "U" said, trap and filter on

Where `usable` says no, zygote/main.py does all of this in Python, as it does for what C hands back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Final

from fildes.runtime import trap
from fildes.runtime.renew import Holdings
from fildes.wire import zygote as wire
from fildes.zygote import forking

INSTANCE, MESSAGE, ENDED, OVER, INTERRUPTED = range(5)

_INSTRUCTION: Final = 8  # bytes of a struct sock_filter


class _Holding(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("kind", "one", "other", "more")]


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


class _Setting(ctypes.Structure):
    _fields_ = [
        ("control", ctypes.c_int),
        ("holding_count", ctypes.c_int),
        ("holdings", ctypes.POINTER(_Holding)),
        ("closing_count", ctypes.c_int),
        ("closing", ctypes.POINTER(ctypes.c_int)),
        ("null_fd", ctypes.c_int),
        ("first_fd", ctypes.c_int),
        ("filter", _Filter),
    ]


class Order(ctypes.Structure):
    """What `next` came back with; `kind` says which of the fields mean something (shim/fork.c)."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("kind", "pid", "status", "conveyor", "handle", "channel", "locked")),
        ("fd_count", ctypes.c_int),
        ("fds", ctypes.c_int * wire.MAX_FDS),
        ("length", ctypes.c_int),
    ]


def usable() -> bool:
    """Whether a fork here is no more than fork(3), and the library for it is loaded."""
    return forking.bare() and trap.library() is not None


class Server:
    def __init__(self, control: int, closing: Sequence[int], program: bytes, holdings: Holdings | None) -> None:
        """All numbers are borrowed. `program`: the filter of an instance. `closing`: what an instance gives up."""
        library = trap.library()
        if library is None:
            raise RuntimeError("the trap was not prepared")
        rows = [_Holding(*row) for row in holdings.rows()] if holdings is not None else []
        self._kept = (
            (_Holding * len(rows))(*rows),
            (ctypes.c_int * len(closing))(*closing),
            program,
        )
        setting = _Setting(
            control,
            len(rows),
            self._kept[0],
            len(closing),
            self._kept[1],
            trap.null(),
            trap.first_kept(),
            _Filter(len(program) // _INSTRUCTION, program),
        )
        _check(library.fildes_fork_prepare(ctypes.byref(setting)), "SIGCHLD")
        # With the interpreter's lock held, for one thread: a child goes on holding it.
        held = ctypes.PyDLL(os.fspath(trap.LIBRARY))
        held.fildes_fork_message.restype = ctypes.POINTER(ctypes.c_char)
        held.fildes_fork_order.restype = ctypes.POINTER(Order)
        self.order = held.fildes_fork_order().contents
        self._next, self._message = held.fildes_fork_next, held.fildes_fork_message
        self.conveyor = held.fildes_fork_conveyor  # (handle): waits for it, and says that the instance is up

    def next(self) -> int:
        """The kind of what happened; `order` has the rest. Raises OSError when the control socket can't be read."""
        _check(self._next(), "an order")
        kind: int = self.order.kind
        return kind

    def message(self) -> bytes:
        """The datagram of a MESSAGE, or of an INSTANCE's order."""
        return bytes(self._message()[: self.order.length])

    def descriptors(self) -> list[int]:
        """Those that came with it, in their order; the caller's from now on. −1 where one was used up."""
        numbers: list[int] = self.order.fds[: self.order.fd_count]
        return numbers


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"the zygote can't take {what}: {os.strerror(-result)}")
