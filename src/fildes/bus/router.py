"""Daemon to daemon: requests are forwarded under the bus's own id, answers find their way back, events go through.

A request is kept until it is answered, so that it can be sent again to a daemon that was killed while it worked on
it: a daemon says Hello when it starts. A bus that was killed itself forgets, and its Hello with a new epoch makes every
daemon send again what it waits for, under the same id; so whoever answers meets (channel, id) twice, and knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from fildes.bus import quota, routes
from fildes.bus.endpoint import Endpoint
from fildes.kernel.fds import Fd, Received, Truncated, close_all
from fildes.kernel.loop import Loop
from fildes.wire import bus as wire
from fildes.wire import message
from fildes.wire.message import Event, Failure, Hello, Reply, Request

_FORGOTTEN: Final = 3600.0  # seconds after which nobody waits any more, whatever was asked


class _Flight(NamedTuple):
    """A request on its way. `data` and `fds` are what was forwarded; the router owns `fds`."""

    asker: str
    target: str
    data: bytes
    fds: Sequence[Fd]
    since: float


class Router:
    """Owns the bus's ends of the daemons' `channels`, by daemon."""

    def __init__(self, loop: Loop, channels: Mapping[str, Fd], epoch: int, limits: quota.Limits = quota.DAEMON) -> None:
        self.loop, self.epoch = loop, epoch
        self._limits = limits
        self._flights: dict[int, _Flight] = {}
        self._in_flight = dict.fromkeys(channels, 0)
        self._endpoints: dict[str, Endpoint] = {}
        for name, fd in channels.items():
            if name not in routes.NUMBERS:
                raise ValueError(f"the bus was given a channel of {name!r}; bus/routes.py knows no such daemon")
            self._endpoints[name] = self._endpoint(name, fd)

    def _endpoint(self, name: str, fd: Fd) -> Endpoint:
        return Endpoint(
            self.loop,
            fd,
            self._limits,
            on_datagram=lambda received: self._on_datagram(name, received),
            on_gone=self.loop.stop,  # init keeps every daemon's end: without it, init is gone
        )

    def greet(self) -> None:
        """Announce this bus's epoch to every daemon."""
        for name in self._endpoints:
            self._say_hello(name)

    @property
    def pending(self) -> int:
        return len(self._flights)

    def close(self) -> None:
        for endpoint in self._endpoints.values():
            endpoint.close()
        for flight in self._flights.values():
            close_all(flight.fds)
        self._flights.clear()

    # — what daemons send —

    def _on_datagram(self, name: str, received: Received | Truncated) -> None:
        if isinstance(received, Truncated):
            self.loop.on_error(ValueError(f"{name}: {received}"))
            return
        fds = received.fds
        try:
            envelope = message.decode(received.data)
        except message.Malformed as error:
            close_all(fds)
            self.loop.on_error(ValueError(f"{name} sent what is {error}"))
            return
        if isinstance(envelope, Request):
            self._on_request(name, envelope, fds)
        elif isinstance(envelope, Reply | Failure):
            self._on_answer(name, envelope, fds)
        elif isinstance(envelope, Event):
            self._on_event(name, envelope, fds)
        else:
            close_all(fds)
            self._on_start_of(name)

    def _on_request(self, name: str, request: Request, fds: list[Fd]) -> None:
        verb = request.verb
        if not 0 < request.id <= message.MAX_ID:
            self._refuse(name, request, "malformed", f"{request.id} is no id: 1 to {message.MAX_ID} are", fds)
            return
        forwarded = routes.NUMBERS[name] << message.ID_BITS | request.id
        if forwarded in self._flights:  # sent again; the first one is still being worked on
            close_all(fds)
            return
        target = routes.target(name, verb)
        if target is None:
            self._refuse(
                name, request, "not-allowed", f"{name} may not ask {verb[:64]!r}; bus/routes.py says who may", fds
            )
        elif target not in self._endpoints:
            self._refuse(name, request, "unreachable", f"this node runs no {target}", fds)
        elif self._in_flight[name] >= self._limits.in_flight:
            self._refuse(name, request, "busy", f"{name} waits for {self._in_flight[name]} answers already", fds)
        else:
            self._forward(name, target, forwarded, request, fds)

    def _forward(self, name: str, target: str, forwarded: int, request: Request, fds: list[Fd]) -> None:
        try:
            data = message.encode(Request(forwarded, request.verb, request.body, name))
        except ValueError as error:  # it grew by the sender's name
            self._refuse(name, request, "too-large", str(error), fds)
            return
        if not self._endpoints[target].has_room(len(data), len(fds)):
            self._refuse(name, request, "busy", f"{target} does not keep up: its queue is full", fds)
            return
        self._flights[forwarded] = _Flight(name, target, data, fds, self.loop.time())
        self._in_flight[name] += 1
        self._endpoints[target].send(data, [fd.dup() for fd in fds])

    def _on_answer(self, name: str, answer: Reply | Failure, fds: list[Fd]) -> None:
        flight = self._flights.get(answer.id)
        if flight is not None and flight.target != name:
            close_all(fds)
            self.loop.on_error(ValueError(f"{name} answered what {flight.target} was asked"))
            return
        if flight is not None:
            asker = self._land(answer.id)
        else:  # asked through a bus that is no more, or too late; the asker knows which
            number = answer.id >> message.ID_BITS
            asker = next((each for each, its in routes.NUMBERS.items() if its == number), "")
            if asker not in self._endpoints or not routes.may_answer(name, asker):
                close_all(fds)
                self.loop.on_error(ValueError(f"{name} answered what nobody asked"))
                return
        answer.id &= message.MAX_ID
        self._endpoints[asker].send(message.encode(answer), fds)

    def _land(self, forwarded: int) -> str:
        flight = self._flights.pop(forwarded)
        close_all(flight.fds)
        self._in_flight[flight.asker] -= 1
        return flight.asker

    def _on_event(self, name: str, event: Event, fds: list[Fd]) -> None:
        target = routes.target(name, event.verb)
        endpoint = self._endpoints.get(target or "")
        if endpoint is None:
            close_all(fds)
            self._undeliverable(name, event.verb, target or "", "not allowed, or nobody of that name runs")
            return
        why = "its queue is full"
        try:
            data = message.encode(Event(event.verb, event.body, name))
        except ValueError as error:  # it grew by the sender's name
            data, why = b"", str(error)
        if data and endpoint.has_room(len(data), len(fds)):
            endpoint.send(data, fds)
        else:
            close_all(fds)
            self._undeliverable(name, event.verb, target or "", why)

    def _on_start_of(self, name: str) -> None:
        """A daemon has started: what its forerunner was asked and did not answer is asked again."""
        self._say_hello(name)
        self._sweep()
        for flight in self._flights.values():
            if flight.target == name:
                self._endpoints[name].send(flight.data, [fd.dup() for fd in flight.fds])

    def _sweep(self) -> None:
        now = self.loop.time()
        for forwarded in [each for each, flight in self._flights.items() if now - flight.since > _FORGOTTEN]:
            self._land(forwarded)

    # — what the bus says —

    def _say_hello(self, name: str) -> None:
        self._endpoints[name].send(message.encode(Hello(message.VERSION, self.epoch)))

    def _refuse(self, name: str, request: Request, code: str, text: str, fds: list[Fd]) -> None:
        close_all(fds)
        self._endpoints[name].send(message.encode(Failure(request.id, code, text)))

    def _undeliverable(self, name: str, verb: str, target: str, why: str) -> None:
        self.loop.on_error(ValueError(f"{verb[:64]!r} from {name} was not delivered: {why}"))
        body = wire.Undeliverable(verb[:64], target, why)
        self._endpoints[name].send(message.encode(Event("bus.undeliverable", message.pack(body), "bus")))
