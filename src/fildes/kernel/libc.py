"""Calls that Python has no function for: syscall(2) by name, and prctl(2).

Importing this on a machine whose call numbers are not in `abi` raises UnknownMachine: there is no
sandbox there, hence no Fildes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

from fildes.kernel.abi import AUDIT_ARCH, NUMBERS


class UnknownMachine(RuntimeError):
    """This machine's call numbers are not known, so nothing can be confined on it."""


def _machine() -> str:
    name = os.uname().machine
    if name not in NUMBERS or sys.maxsize < 2**32:
        known = ", ".join(NUMBERS)
        raise UnknownMachine(f"Fildes runs on 64-bit {known}; this is {name}: its call numbers are not known")
    return name


MACHINE: Final = _machine()
NR: Final = NUMBERS[MACHINE]
ARCH: Final = AUDIT_ARCH[MACHINE]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.restype = ctypes.c_int
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def syscall(name: str, *arguments: object) -> int:
    """Make the system call `name` and return its result.

    Arguments: int (passed 64 bits wide), None (a null pointer), bytes or a ctypes object (its address).
    Raises OSError with the call's name, also (ENOSYS) when this machine never had it.
    """
    number = NR.get(name)
    if number is None:
        raise OSError(38, f"{name}: {MACHINE} has no such call")
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def prctl(what: str, option: int, *arguments: int) -> int:
    """prctl(2); `what` is the option's C name, for the error's text."""
    result: int = _libc.prctl(option, *arguments, *[0] * (4 - len(arguments)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({what}): {os.strerror(error)}")
    return result
