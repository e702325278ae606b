"""Clocks to hand out: a timer for each instance, and one page for all that says when they began.

All timers count from the same tick 0, the moment this page was made, so one page serves them all and a change of
the machine's clock is written once. Each holder gets its own description of it: a shared one has a shared position,
through which two tenants could talk.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from typing import Final

from fildes.capabilities.clock.face import PAGE, TICK_NS
from fildes.kernel import memfd, timers
from fildes.kernel.fds import Fd

_SIZE: Final = 4096
_NEVER_NS: Final = 1 << 62  # an absolute time that is not reached
_RACES: Final = 8  # with changes of the machine's clock, in a row


class ClockPage:
    """The page, writable here; `fd` (borrowed) is what a restarted driver takes it up from."""

    def __init__(self, fd: Fd, *, fresh: bool) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd.fileno(), _SIZE)
        if fresh:
            self._write(time.monotonic_ns(), 0)
        else:
            self.set()

    @classmethod
    def make(cls) -> ClockPage:
        fd = memfd.create("clock")
        os.ftruncate(fd.fileno(), _SIZE)
        # Holders get descriptions that can only read; by path nobody but this driver could open it otherwise.
        os.fchmod(fd.fileno(), 0o400)
        fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return cls(fd, fresh=True)

    def set(self) -> None:
        """The machine's clock was set: write down what tick 0 was by the new one."""
        _, _, seconds, nanoseconds, writes = PAGE.unpack_from(self._map)
        self._write(seconds * 10**9 + nanoseconds, writes | 1)

    def _write(self, began: int, writes: int) -> None:
        wall = time.time_ns() - (time.monotonic_ns() - began)
        self._map[32:40] = (writes | 1).to_bytes(8, "little")
        self._map[:32] = PAGE.pack(*divmod(wall, 10**9), *divmod(began, 10**9), 0)[:32]
        self._map[32:40] = ((writes | 1) + 1).to_bytes(8, "little")

    def open(self) -> list[Fd]:
        """[timer, page]: what one instance gets."""
        page = Fd.open(f"/proc/self/fd/{self.fd.fileno()}", os.O_RDONLY)
        timer = timers.create(timers.CLOCK_MONOTONIC)
        _, _, seconds, nanoseconds, _ = PAGE.unpack_from(self._map)
        # Begun in the past: the first read tells of all ticks since tick 0 (timerfd_create(2)). It costs no wake-ups:
        # the kernel arms a periodic timer again only when it is read.
        timers.arm(timer.fileno(), seconds * 10**9 + nanoseconds + TICK_NS, TICK_NS, timers.TFD_TIMER_ABSTIME)
        return [timer, page]

    def close(self) -> None:
        self._map.close()
        self.fd.close()


def watch_for_set() -> Fd:
    """A timer that becomes readable, by a read that fails with ECANCELED, when the machine's clock is set."""
    timer = timers.create(timers.CLOCK_REALTIME)
    rearm(timer)
    return timer


def rearm(timer: Fd) -> None:
    """Raises OSError, not for ECANCELED: the clock was set while the timer was armed (which it is then)."""
    flags = timers.TFD_TIMER_ABSTIME | timers.TFD_TIMER_CANCEL_ON_SET
    for _ in range(_RACES):
        try:
            timers.arm(timer.fileno(), _NEVER_NS, 0, flags)
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
