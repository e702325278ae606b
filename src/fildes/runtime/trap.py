"""The Python side of `shim/`: load the library, give it the packs, then the instance's descriptors.

zygote     prepare(packs, null)     the library and the packs are mapped, checked once, shared by all forks
instance   activate(kit)            the handler is installed and told what was granted
           then the serve filter    from here on the calls that it traps are answered by the handler
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fildes.runtime.kit import Kit

LIBRARY = Path(__file__).parent / "libfildes_trap.so"

_BROKEN = {
    1: "its first bytes are not a pack's of version 1",
    2: "its size or its number of members is impossible",
    3: "its tables do not lie where they should",
    4: "a name lies outside the names",
    5: "a path is not absolute and normal",
    6: "its members are not sorted, or do not start with the root",
    7: "a member is neither a plain file nor a directory",
    8: "a member's contents or time are impossible",
    9: "a member's directory is not in the pack",
    10: "a directory's listing is malformed",
}

_library: ctypes.CDLL | None = None
_null = -1


class BadPack(ValueError):
    """The trap refuses this pack; the text says which rule it breaks."""


def load() -> None:
    """The library, as early as can be. From here on the interpreter's small objects lie together (shim/memory.c), so
    that they can share large pages. Raises OSError when it was not built (`make -C shim`).
    """
    global _library
    if _library is None:
        _library = ctypes.CDLL(os.fspath(LIBRARY))
        _library.fildes_memory_arenas.restype = ctypes.c_void_p
        allocator = _library.fildes_memory_arenas()
        if allocator:
            ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.c_void_p(allocator))


def prepare(packs: Sequence[int], null: int = -1) -> None:
    """Load the trap and map `packs` (descriptors, borrowed), looked up in this order. `null` is an open /dev/null, kept
    open by the caller, of which open("/dev/null") gives a dup.

    From here on `rdtsc`, which faults in a zygote, is answered too: by the coarse clock.

    In the zygote, while files can still be opened. Raises OSError when the library was not built (`make -C shim`), and
    BadPack.
    """
    global _null
    load()
    library = _library
    if library is None:  # it was, or that raised
        return
    library.fildes_trap_wall_ns.restype = ctypes.c_int64
    library.fildes_trap_answered.restype = ctypes.c_uint64
    for fd in packs:
        broken = library.fildes_trap_add_pack(fd)
        if broken > 0:
            raise BadPack(f"not a pack that may be used: {_BROKEN.get(broken, broken)}")
        _check(broken, "a pack")
    _check(library.fildes_trap_hide_tsc(), "SIGSEGV")
    _null = null


def shortcut() -> int:
    """Answer clock_gettime(3) of the libraries loaded by now without a trap, which costs as much as ten calls.

    In the zygote, so that the import tables are written once. Returns how many were.
    """
    return 0 if _library is None else int(_library.fildes_trap_shortcut())


def join() -> int:
    """Make one mapping of a library's code and read-only data: a fork costs half a microsecond for each. How many."""
    return 0 if _library is None else int(_library.fildes_memory_join())


def collapse() -> int:
    """Put memory into large pages: a fork shares one in one step, not in 512, and an instance still copies no more
    than the 4 kB that it writes to. How many. In the zygote, when it has loaded.
    """
    return 0 if _library is None else int(_library.fildes_memory_collapse())


def remember_directory() -> None:
    """Instances start in the working directory of this moment; in /app if this is never called. In the zygote."""
    if _library is not None:
        _library.fildes_trap_set_directory(os.fsencode(os.getcwd()))


def activate(kit: Kit) -> None:
    """Install the handler, and hand it what `kit` holds: clock, random, secrets. All descriptors stay the kit's.

    In the instance, right before the serve filter. Without `prepare` it does nothing: nothing can be answered then.
    """
    if _library is None:
        return
    kinds = {grant["name"]: grant["kind"] for grant in kit.settings.get("grants", ())}
    for name, fds in kit.grants.items():
        kind = kinds.get(name, name)
        if kind == "clock" and len(fds) == 2:
            _check(_library.fildes_trap_set_clock(*fds), "the clock")
        elif kind == "random" and fds:
            _library.fildes_trap_set_random(fds[0])
        elif kind == "secret" and fds:
            _check(_library.fildes_trap_add_secret(name.encode(), fds[0]), f"the secret {name!r}")
    for grant in kit.settings.get("grants", ()):
        if grant["kind"] == "sqlite" and grant["name"] in kit.grants:
            _keep_database(grant, kit.grants[grant["name"]])
    _check(_library.fildes_trap_activate(_null, first_kept()), "the handler")


def library() -> ctypes.CDLL | None:
    """The one that `prepare` has loaded."""
    return _library


def null() -> int:
    """The /dev/null that `prepare` was given, −1 if none."""
    return _null


def first_kept() -> int:
    """From this number on the descriptors of files in /tmp are kept: out of the way of the program's own, for
    descriptors are given out from the lowest number on.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft - min(soft // 2, 1024)


def keep(path: str, fd: int, *, writable: bool, passing: bool = False) -> None:
    """`path` is that file from now on; `fd` (borrowed) was opened with O_NOFOLLOW. See shim/kept.c.

    `passing`: what is removed need not be gone after a power failure.
    """
    if _library is not None:
        _check(_library.fildes_trap_add_kept(os.fsencode(path), fd, writable, passing), f"the path {path!r}")


def _keep_database(grant: dict[str, Any], fds: list[int]) -> None:
    """A database and what SQLite puts beside it (sqlite.org/tempfiles)."""
    for suffix, fd in zip(("", "-journal", "-wal", "-shm"), fds, strict=True):
        keep(grant["path"] + suffix, fd, writable=bool(grant["writable"]), passing=suffix == "-shm")


def set_terminal(fd: int) -> None:
    """open("/dev/tty") gives a dup of `fd` (borrowed) from now on: a command's terminal."""
    if _library is not None:
        _library.fildes_trap_set_terminal(fd)


def wall_ns() -> int | None:
    """Nanoseconds since 1970 from the clock grant, None without one. The one reader of the grant's timer."""
    now = -1 if _library is None else _library.fildes_trap_wall_ns()
    return None if now < 0 else now


def answered() -> int:
    """How many calls of this process the handler has answered."""
    return 0 if _library is None else int(_library.fildes_trap_answered())


def set_on_type(kind: type, name: str, value: object) -> None:
    """Set an attribute of a type of C, which does not allow it: its dict is what its mappingproxy refers to."""
    members = next(o for o in gc.get_referents(kind.__dict__) if isinstance(o, dict))
    members[name] = value
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"the trap does not take {what}: {os.strerror(-result)}")
