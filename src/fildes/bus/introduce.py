"""Introductions: make a pair of connected streams, send one end to the called release, and step out of the way.

The sending ends of conveyors are asked for once and kept. The called instance finds the stream on its conveyor among
the connections of the door; the kernel's queue is the waiting room, and an idle service is started by it.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

import msgspec

from fildes.bus.quota import Unread
from fildes.daemon.peer import Peer, Refused
from fildes.kernel import sockets
from fildes.kernel.fds import Fd, close_all, send_with_fds, stream_pair
from fildes.kernel.loop import Promise
from fildes.wire.conveyor import encode_introduction
from fildes.wire.orchestrator import GetConveyor

_WAITING: Final = 64  # introduced streams that a release has not taken; more would use up the bus's share in flight
_PATIENCE: Final = 10.0  # seconds for the orchestrator's answer


class _Anything(msgspec.Struct):
    """The answer's body is not read: the descriptor is the answer."""


class _Conveyor:
    __slots__ = ("fd", "unread")

    def __init__(self, fd: Fd) -> None:
        self.fd, self.unread = fd, Unread(sockets.smallest_charge())


class Introducer:
    def __init__(self, peer: Peer) -> None:
        self.count = 0
        self._peer = peer
        self._conveyors: dict[str, _Conveyor] = {}
        self._asked: dict[str, Promise[_Conveyor]] = {}

    @property
    def held(self) -> int:
        return len(self._conveyors)

    def now(self, caller: str, service: str, release: str) -> Fd | None:
        """The caller's end of a new stream, or None: the conveyor has to be asked for first, use `soon`.

        Raises Refused when `release` has too many waiting.
        """
        conveyor = self._conveyors.get(release)
        return None if conveyor is None else self._introduce(conveyor, caller, service, release)

    async def soon(self, caller: str, service: str, release: str) -> Fd:
        """Like `now`, and fetches the conveyor. Raises Refused, also when there is none."""
        end = None
        for _ in range(2):  # twice: the one that was kept may have ended while nobody looked
            conveyor = self._conveyors.get(release) or await self._fetch(release)
            end = self._introduce(conveyor, caller, service, release)
            if end is not None:
                return end
        raise Refused("unreachable", f"{service} takes no connections: its release {release} has ended")

    def forget(self, release: str) -> None:
        conveyor = self._conveyors.pop(release, None)
        if conveyor is not None:
            conveyor.fd.close()

    def close(self) -> None:
        for release in list(self._conveyors):
            self.forget(release)

    def _introduce(self, conveyor: _Conveyor, caller: str, service: str, release: str) -> Fd | None:
        waiting = conveyor.unread.at_most(sockets.unread(conveyor.fd.fileno()))
        busy = Refused("busy", f"{service} has {waiting} connections waiting that it has not taken; try again later")
        if waiting >= _WAITING:
            raise busy
        ours, theirs = stream_pair()
        with theirs:
            try:
                # Descriptors travel over an introduced stream only by a grant that says so; there is none yet.
                # Before 6.16 the kernel has no such option: SECURITY.md says what is left then.
                sockets.refuse_rights(ours.fileno())
                sockets.refuse_rights(theirs.fileno())
                send_with_fds(conveyor.fd.fileno(), encode_introduction(caller), [theirs.fileno()], socket.MSG_DONTWAIT)
            except OSError as error:
                ours.close()
                if isinstance(error, BlockingIOError) or error.errno == errno.ETOOMANYREFS:
                    raise busy from error
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED):
                    raise
                self.forget(release)
                return None
        conveyor.unread.sent(1)
        self.count += 1
        return ours

    async def _fetch(self, release: str) -> _Conveyor:
        if release in self._asked:
            return await self._asked[release]
        promise = self._asked[release] = Promise(self._peer.loop)
        try:
            answer = await self._peer.ask(
                "orchestrator.conveyor", GetConveyor(release), reply=_Anything, timeout=_PATIENCE
            )
            if len(answer.fds) != 1:
                close_all(answer.fds)
                raise Refused("protocol", f"the orchestrator sent {len(answer.fds)} descriptors for one conveyor")
        except BaseException as error:
            promise.fail(error)
            raise
        else:
            conveyor = self._conveyors[release] = _Conveyor(answer.fds[0])
            promise.resolve(conveyor)
            return conveyor
        finally:
            del self._asked[release]
