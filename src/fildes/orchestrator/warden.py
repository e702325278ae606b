"""Stands between a zygote and the calls that it may make only while it loads (seccomp_unotify(2)).

Open, every such call goes through: the view bounds what it can reach. Once closed it never opens again, and every
such call is refused, but for exactly one clone per instance that was ordered. Letting a call go on is safe here
though its arguments can change under us: this decides *whether* a call runs, never *on what*.
"""

from __future__ import annotations

import errno
from typing import Final

from fildes.kernel import notify
from fildes.kernel.fds import Fd
from fildes.kernel.libc import NR
from fildes.kernel.loop import EPOLLERR, EPOLLHUP, EPOLLIN, Loop

_FORKS: Final = frozenset(NR[name] for name in ("clone", "fork", "vfork") if name in NR)

_EXECS: Final = frozenset(NR[name] for name in ("execve", "execveat") if name in NR)

# Calls answered at once, and a second: beyond, the program waits. It may not use up the CPU of a process that all
# releases share. Large imports make some ten thousand; behind the ratchet there is nothing to ask for.
_BURST_LOADING: Final = 30_000
_BURST: Final = 1_000
_RATE_LOADING: Final = 4_000
_RATE: Final = 500
_PAUSE: Final = 0.05  # seconds


class Warden:
    """Owns the listener. `close_gate` is the ratchet's first half; see supervised.py for the second."""

    def __init__(self, loop: Loop, listener: Fd, *, opened: bool) -> None:
        self._loop = loop
        self._listener = listener
        self._open = opened
        self._forks = 0
        self._may_exec = opened  # the interpreter's, which the launcher orders
        self._burst, self._rate = (_BURST_LOADING, _RATE_LOADING) if opened else (_BURST, _RATE)
        self._left, self._at = float(self._burst), loop.time()
        loop.watch(listener.fileno(), EPOLLIN, self._on_notifications)

    @property
    def listener(self) -> int:
        return self._listener.fileno()

    @property
    def ended(self) -> bool:
        """Nobody runs under the filter any more."""
        return self._listener.closed

    def close_gate(self) -> None:
        self._open = False
        self._burst, self._rate, self._left = _BURST, _RATE, float(_BURST)

    def allow_one_fork(self) -> None:
        self._forks += 1

    def close(self) -> None:
        if not self._listener.closed:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()

    def _on_notifications(self, events: int) -> None:
        if events & (EPOLLHUP | EPOLLERR):  # nobody runs under the filter any more
            self.close()
            return
        self._left -= 1
        if self._left < 0 and not self._earned():
            self._loop.unwatch(self._listener.fileno())
            self._loop.call_later(_PAUSE, self._go_on)
            return
        notification = notify.receive(self._listener.fileno())
        if notification is not None:
            self._answer(notification)

    def _earned(self) -> bool:
        """What the time since the last look has brought. The clock is read only when nothing is left."""
        now = self._loop.time()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left >= 0

    def _go_on(self) -> None:
        if not self._listener.closed:
            self._loop.watch(self._listener.fileno(), EPOLLIN, self._on_notifications)

    def _answer(self, notification: notify.Notification) -> None:
        listener = self._listener.fileno()
        if notification.nr in _EXECS and not self._may_exec:
            # A second exec would bring the vDSO back, and with it the time.
            notify.refuse(listener, notification.id, errno.EPERM)
        elif self._open:
            self._may_exec = self._may_exec and notification.nr not in _EXECS
            notify.proceed(listener, notification.id)
        elif self._forks and notification.nr in _FORKS:
            self._forks -= 1
            notify.proceed(listener, notification.id)
        else:
            notify.refuse(listener, notification.id, errno.EPERM)
