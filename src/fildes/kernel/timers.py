"""Timers as descriptors: timerfd_create(2). Python has them only from 3.13 on, so they go through libc."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from fildes.kernel.fds import Fd

CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
CLOCK_MONOTONIC_COARSE: Final = 6
TFD_TIMER_ABSTIME: Final = 1
TFD_TIMER_CANCEL_ON_SET: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.timerfd_create.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
_ITIMERSPEC = struct.Struct("qqqq")  # interval seconds, nanoseconds; value seconds, nanoseconds


def create(clock: int = CLOCK_MONOTONIC) -> Fd:
    """An unarmed, non-blocking timerfd on `clock`."""
    number = _libc.timerfd_create(clock, os.O_CLOEXEC | os.O_NONBLOCK)
    if number < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"timerfd_create on clock {clock}: {os.strerror(error)}")
    return Fd(number)


def arm(fd: int, first_ns: int, interval_ns: int = 0, flags: int = 0) -> None:
    """Expire after (or at, with TFD_TIMER_ABSTIME) `first_ns`, then every `interval_ns`; 0 disarms."""
    spec = _ITIMERSPEC.pack(*divmod(interval_ns, 10**9), *divmod(first_ns, 10**9))
    if _libc.timerfd_settime(fd, flags, spec, None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"timerfd_settime: {os.strerror(error)}")


def was_set(fd: int) -> bool:
    """Read a timer armed with TFD_TIMER_CANCEL_ON_SET: True if the clock was set since it was armed."""
    try:
        os.read(fd, 8)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.ECANCELED:
            raise
        return True
    return False
