"""Make every object of a loaded program immortal (PEP 683), so that using it writes nothing.

A reference count is written whenever an object is used, and in a forked process the first write to a page copies it:
2 µs and 4 kB each, a few hundred of them until the first answer. Counts of immortal objects are not written.

Only for the interpreters whose layout is known: 3.12 and 3.13, 64 bits, with the global lock. Elsewhere nothing is
done, and starts are slower. What is immortal is never finalised: a process that called this must end by os._exit.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import sysconfig
import types
from collections.abc import Iterable
from typing import Any, Final

_IMMORTAL: Final = 0xFFFFFFFF  # _Py_IMMORTAL_REFCNT of 3.12 and 3.13, in the low half of ob_refcnt
_VERSIONS: Final = frozenset({(3, 12), (3, 13)})
# Their ends are decided by their counts: what a frame holds is let go of when nobody else has the frame.
_MORTAL: Final = (types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_CODE: Final = ("co_consts", "co_names", "co_filename", "co_name", "co_qualname", "co_linetable", "co_exceptiontable")
_LOCALS: Final = ("co_varnames", "co_cellvars", "co_freevars")  # made when asked for; the names in them are the code's
_AT_ONCE: Final = 4096  # objects whose referents are listed together


def known() -> bool:
    """Whether this interpreter's counts are where this module takes them to be."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in _VERSIONS or sys.maxsize < 1 << 32:
        return False
    if sysconfig.get_config_var("Py_GIL_DISABLED") or hasattr(sys, "gettotalrefcount"):
        return False
    fresh = object()
    counts = (ctypes.c_uint32 * 2).from_address(id(fresh))
    return list(counts) == [1, 0] and ctypes.c_uint32.from_address(id(None)).value == _IMMORTAL


def make() -> int:
    """Everything that is alive now: how many objects, 0 where `known` says no.

    Frozen too (gc.freeze): what is never freed need not be looked at by the collector.
    """
    if not known():
        return 0
    gc.unfreeze()  # what is frozen is not listed
    gc.collect()
    pending = gc.get_objects()
    seen = {id(pending)}
    seen.add(id(seen))
    count = 0
    # All of memory as an array: half the time of a ctypes object for each count.
    memory = (ctypes.c_uint32 * (1 << 45)).from_address(0)
    while pending:
        fresh = []
        for one in pending:
            where = id(one)
            if where not in seen:
                seen.add(where)
                fresh.append(one)
        pending = []
        for first in range(0, len(fresh), _AT_ONCE):
            batch = fresh[first : first + _AT_ONCE]
            pending += gc.get_referents(*batch)
        for one in fresh:
            kind = type(one)
            if kind is types.CodeType:
                pending += _of_code(one)
            if kind not in _MORTAL:
                memory[id(one) >> 2] = _IMMORTAL
                count += 1
    del pending, fresh, batch, one
    gc.freeze()
    return count


def also(objects: Iterable[object]) -> None:
    """These too, that were made later, and what they refer to by themselves."""
    if known():
        memory = (ctypes.c_uint32 * (1 << 45)).from_address(0)
        for one in objects:
            for inner in [one, *gc.get_referents(one), *(_of_code(one) if isinstance(one, types.CodeType) else ())]:
                if type(inner) not in _MORTAL:
                    memory[id(inner) >> 2] = _IMMORTAL


def _of_code(code: types.CodeType) -> list[Any]:
    """A code object's members: it takes no part in the collection of garbage, so nothing else lists them."""
    members = [getattr(code, name) for name in _CODE]
    for name in _LOCALS:
        members += getattr(code, name)
    return members
