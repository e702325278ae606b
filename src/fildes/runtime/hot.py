"""Bring close together what every instance writes to.

The interpreter writes into code while it runs it: a counter at each place that it has not specialised, also where it
never will. So an instance copies the page of every function that it calls, and functions lie where they were imported:
a hundred pages of which some bytes each are written. Here the code that was practised is copied to fresh memory, in the
order in which it ran, and practised again until the copies are specialised.

For the same reason the holes in memory are filled first: what an instance allocates then lies together too, in memory
that nobody has written to, and not in a hundred pages with some free bytes each.

Only where immortal.py knows the interpreter; elsewhere all that is done is to practise.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, Final

from fildes.runtime import immortal, trap

ROUNDS: Final = 12  # the interpreter specialises after some runs, and tries again where it failed
_TOOL: Final = 5  # a number that sys.monitoring has for nobody in particular
_POOL: Final = 1 << 14  # bytes: POOL_SIZE of obmalloc
_FIRST: Final = 48  # POOL_OVERHEAD: where a pool's first block lies
_LARGEST: Final = 512  # SMALL_REQUEST_THRESHOLD; above it is malloc(3)
_STEP: Final = 16  # ALIGNMENT
_MOST: Final = 1 << 14  # blocks of one size
_LARGE_INT: Final = 1 << 40

_kept: list[Any] = []


Practise = Callable[[], Iterable[Callable[[], object]]]


def settle(practise: Practise, also: Iterable[types.ModuleType] = ()) -> None:
    """Make all that is alive immortal; and hot what is run by what `practise` returns, and the functions of `also`.

    What `practise` does to prepare that is not meant. What fails is of no consequence.
    """
    if not immortal.known():
        _repeat(practise, ROUNDS // 2)
        gc.collect()
        gc.freeze()
        return
    codes = _run_by(practise)
    codes |= dict.fromkeys(one.__code__ for module in also for one in _functions_of(module))
    immortal.make()
    _fill()
    _gather(codes)
    _repeat(practise, ROUNDS)
    gc.collect()
    _fill()
    gc.freeze()
    trap.join()
    trap.collapse()


def _repeat(practise: Practise, times: int) -> None:
    with contextlib.suppress(Exception):
        for _ in range(times):
            for each in practise():
                each()


def _run_by(practise: Practise) -> dict[types.CodeType, None]:
    """All of it, in its order: since 3.13 each conditional jump notes which way it went."""
    codes: dict[types.CodeType, None] = {}
    prepared: list[Callable[[], object]] = []
    with contextlib.suppress(Exception):
        prepared.extend(practise())
    monitoring: Any = vars(sys)["monitoring"]  # since 3.12

    def began(code: types.CodeType, _: int) -> object:
        codes[code] = None
        return monitoring.DISABLE

    try:
        monitoring.use_tool_id(_TOOL, "fildes")
    except ValueError:  # the program has taken it
        return codes
    events = monitoring.events.PY_START, monitoring.events.PY_RESUME
    for event in events:
        monitoring.register_callback(_TOOL, event, began)
    monitoring.set_events(_TOOL, events[0] | events[1])
    try:
        _repeat(lambda: prepared, 1)
    finally:
        monitoring.set_events(_TOOL, 0)
        for event in events:
            monitoring.register_callback(_TOOL, event, None)
        monitoring.free_tool_id(_TOOL)
    return codes


def _functions() -> list[types.FunctionType]:
    gc.unfreeze()  # what is frozen is not listed
    return [one for one in gc.get_objects() if type(one) is types.FunctionType]


def _functions_of(module: types.ModuleType) -> Iterable[types.FunctionType]:
    for one in vars(module).values():
        for inner in [one, *vars(one).values()] if isinstance(one, type) else [one]:
            function = getattr(inner, "__func__", inner)
            if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                yield function


def _gather(codes: dict[types.CodeType, None]) -> None:
    """Give every function of one of `codes` a copy, the copies side by side."""
    copies: dict[types.CodeType, types.CodeType] = {}

    def copy(code: types.CodeType) -> types.CodeType:
        if code not in codes:
            return code
        if code not in copies:
            inner = tuple(copy(one) if isinstance(one, types.CodeType) else one for one in code.co_consts)
            copies[code] = code.replace(co_consts=inner)
        return copies[code]

    for code in codes:
        copy(code)
    for one in _functions():
        if one.__code__ in copies:
            one.__code__ = copies[one.__code__]
    immortal.also(copies.values())


def _fill() -> None:
    """Until the next block of each size is the first of a pool, and the next of malloc(3) at the end of its heap."""
    for size in range(_STEP, _LARGEST + 1, _STEP):
        blocks = []
        for _ in range(_MOST):
            block = _block(size)
            if id(block) % _POOL == _FIRST:
                break
            blocks.append(block)
        _kept.append(blocks)
        immortal.also(blocks)
    library = trap.library()
    if library is not None:
        library.fildes_memory_fill()


def _block(size: int) -> object:
    """A new object of exactly this size, without a header of the collector."""
    if size == 16:
        return object()
    return _LARGE_INT + size if size == 32 else bytes(size - 33)  # 33 are the bytes' own
