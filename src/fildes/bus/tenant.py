"""One instance's channel in the bus's hands: what it may cost, and what of its requests is under way.

The channel is the identity: `release` and `instance` were said by the orchestrator when the channel was made, and
nothing that comes over it can change them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from fildes.bus.endpoint import Endpoint
from fildes.bus.quota import STRIKES, Bucket, Limits
from fildes.kernel.fds import Fd, Received, Truncated, close_all
from fildes.kernel.loop import Loop
from fildes.wire import message
from fildes.wire.message import Failure, Reply, Request
from fildes.wire.tenant import MAX_REQUEST

_PAUSE = 0.02  # seconds at least, so that a spammer costs few wake-ups


class Identity(msgspec.Struct, frozen=True):
    """What init keeps beside the channel: it is whose it is, also for a bus that starts again."""

    release: str
    instance: str
    service: str


class Tenant:
    """Owns `fd`. `on_request(tenant, id, verb, body)` is owed one `reply` or `fail` with that id."""

    def __init__(
        self,
        loop: Loop,
        fd: Fd,
        identity: Identity,
        limits: Limits,
        *,
        on_request: Callable[[Tenant, int, str, msgspec.Raw], object],
        on_gone: Callable[[Tenant], object],
    ) -> None:
        self.loop, self.identity = loop, identity
        self.told_at = -1e9  # when its log last heard of a refusal
        self._on_request, self._on_gone = on_request, on_gone
        self._limits = limits
        self._bucket = Bucket(limits.rate, limits.burst, loop.time())
        self._working: set[int] = set()
        self._strikes = 0
        self._held = True  # not yet allowed to ask, or over its rate
        self._endpoint = Endpoint(
            loop,
            fd,
            limits,
            on_datagram=self._on_datagram,
            on_gone=lambda: on_gone(self),
            on_sent=self._pace,
        )
        self._endpoint.pause()

    def start(self) -> None:
        """Read from now on. Until then requests wait in the channel."""
        self._held = False
        self._pace()

    def greet(self, epoch: int) -> None:
        self._endpoint.send(message.encode(message.Hello(message.VERSION, epoch)))

    def may_take_fds(self) -> bool:
        return self._endpoint.may_take_fds()

    def reply(self, number: int, body: msgspec.Struct, fds: Sequence[Fd] = ()) -> None:
        """Consumes `fds`."""
        self._finish(number, message.encode(Reply(number, message.pack(body))), fds)

    def fail(self, number: int, code: str, text: str, grant: str | None = None) -> None:
        self._finish(number, message.encode(Failure(number, code, text[:4096], grant)), ())

    def end(self) -> None:
        """Hang up on the instance."""
        self._endpoint.end()

    def close(self) -> None:
        """Let go of the channel: another bus will take it up."""
        self._endpoint.close()

    def _finish(self, number: int, data: bytes, fds: Sequence[Fd]) -> None:
        self._working.discard(number)
        self._endpoint.send(data, fds)
        self._pace()

    def _pace(self) -> None:
        """Read while it is allowed to ask, and what it asked for before is not still with us."""
        if self._held or len(self._working) + self._endpoint.queued >= self._limits.in_flight:
            self._endpoint.pause()
        else:
            self._endpoint.resume()

    def _on_datagram(self, received: Received | Truncated) -> None:
        wait = self._bucket.take(self.loop.time())
        if wait:
            self._held = True
            self.loop.call_later(max(wait, _PAUSE), self.start)
        if isinstance(received, Truncated):
            self._strike("too-large", str(received))
            return
        with_fds = bool(received.fds)
        close_all(received.fds)
        if len(received.data) > MAX_REQUEST:
            self._strike("too-large", f"a request of {len(received.data)} bytes; at most {MAX_REQUEST} are taken")
            return
        try:
            request = message.decode(received.data)
        except message.Malformed as error:
            self._strike("malformed", str(error))
            return
        if not isinstance(request, Request) or not 0 < request.id <= message.MAX_ID:
            self._strike("malformed", f"only requests with ids of 1 to {message.MAX_ID} are taken here")
        elif request.id in self._working:
            pass  # sent again, after a Hello that it read late: it is being worked on
        elif with_fds:
            self.fail(request.id, "no-fds", "no descriptors are taken here; they were closed")
        else:
            self._working.add(request.id)
            self._pace()
            self._on_request(self, request.id, request.verb, request.body)

    def _strike(self, code: str, text: str) -> None:
        """Id 0: what could not be read has none."""
        self._strikes += 1
        if self._strikes < STRIKES:
            self.fail(0, code, text)
        else:
            self._endpoint.end()
            self._on_gone(self)
