"""What one channel may cost the others. Pure: time is a parameter.

The sender pays: what a channel asked for counts against it until the answer has left for its own queue, so a client
that asks without reading stops being read itself, and nobody else notices.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple


class Limits(NamedTuple):
    """Of one channel. Queues are those in the bus's memory, behind the kernel's own."""

    in_flight: int  # requests without an answer; beyond: reading pauses (tenants), or a refusal (daemons)
    queued: int  # datagrams for this channel
    queued_bytes: int
    queued_fds: int
    unread_fds: int  # descriptors in the kernel's queue that the peer has not received
    rate: float  # requests a second, in the long run; 0: any number
    burst: int  # requests at once
    rounds: int  # datagrams read before others get their turn


DAEMON: Final = Limits(
    in_flight=1024, queued=2048, queued_bytes=8 << 20, queued_fds=512, unread_fds=512, rate=0, burst=0, rounds=64
)
# 2,000 opens a second of one instance keep the bus a quarter busy; nobody needs half as many.
TENANT: Final = Limits(
    in_flight=16, queued=64, queued_bytes=256 << 10, queued_fds=16, unread_fds=16, rate=2000, burst=500, rounds=4
)
CHANNELS: Final = 16  # of one release, the newest; it has one instance, one being prepared, and some that drain
STRIKES: Final = 16  # datagrams that were no message, before a tenant's channel is closed


class Bucket:
    """`burst` at once, `rate` a second in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, burst, float(burst), now

    def take(self, now: float) -> float:
        """Take one, and return 0; or take none, and return the seconds until there is one."""
        if not self._rate:
            return 0.0
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


class Unread:
    """Descriptors sent into a socket, and how many of them may still wait there.

    The kernel does not tell how many; it tells how many bytes are unread (SIOCOUTQ, unix(7)). No datagram takes less
    than `charge` of them (`kernel.sockets.smallest_charge`), and they are read in order: so only the last few wait.
    """

    __slots__ = ("_charge", "_sent")

    def __init__(self, charge: int) -> None:
        self._charge = charge
        self._sent: deque[int] = deque(maxlen=1024)  # more datagrams than a queue holds

    def sent(self, fds: int) -> None:
        """A datagram with `fds` was sent. Datagrams of others in the same queue need not be told."""
        self._sent.append(fds)

    def at_most(self, unread_bytes: int) -> int:
        datagrams = unread_bytes // self._charge
        while len(self._sent) > datagrams:
            self._sent.popleft()
        return sum(self._sent)
