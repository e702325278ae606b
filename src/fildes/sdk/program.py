"""What this program was given, and opening more of what it was granted."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Union

from fildes.capabilities.clock.face import Clock
from fildes.capabilities.connect.face import connection
from fildes.capabilities.random.face import Random
from fildes.capabilities.secret.face import Secret
from fildes.capabilities.sqlite import face as sqlite
from fildes.sdk.channel import Channel
from fildes.sdk.errors import Denied, Unavailable

if TYPE_CHECKING:
    import sqlite3

Face = Union[Clock, Random, Secret, socket.socket, "sqlite3.Connection"]
"""What `open` returns: by the kind of the grant."""


class Grant(NamedTuple):
    """A line of the manifest: under `name` this program gets `kind`; `to` is where a connect leads."""

    name: str
    kind: str
    to: str | None = None


class Kit(Protocol):
    """What of the runtime's kit is used here (see runtime/kit.py)."""

    channel: int
    grants: dict[str, list[int]]
    settings: dict[str, Any]


class Program:
    """A program under Fildes, from the inside. `clock_ns`: the runtime's reader of the clock grant, if it has one."""

    def __init__(self, kit: Kit, clock_ns: Callable[[], int] | None = None) -> None:
        self.service: str = kit.settings.get("service", "")
        self.release: str = kit.settings.get("release", "")
        self._channel_fd = kit.channel
        self._channel: Channel | None = None
        self._clock_ns = clock_ns
        self._given = kit.grants
        self._grants = tuple(
            Grant(each["name"], each["kind"], each.get("to")) for each in kit.settings.get("grants", ())
        )
        self._databases = {
            each["name"]: (each["path"], each["writable"])
            for each in kit.settings.get("grants", ())
            if each["kind"] == "sqlite"
        }
        self._faces: dict[str, Face] = {}

    def grants(self) -> tuple[Grant, ...]:
        return self._grants

    def only(self, kind: str) -> str:
        """The name of the one grant of that kind; Denied by the bus's words if there is none."""
        names = [each.name for each in self._grants if each.kind == kind]
        return names[0] if names else kind

    @property
    def channel(self) -> Channel:
        if self._channel is None:
            if self._channel_fd < 0:
                raise Unavailable("this program was started without a channel to the bus")
            self._channel = Channel(self._channel_fd)
        return self._channel

    def held(self, name: str) -> Face | None:
        """What was opened before the program started, if this was."""
        face = self._faces.get(name)
        if face is None and name in self._given:
            kind = next((each.kind for each in self._grants if each.name == name), "")
            face = self._faces[name] = self._face(name, kind, self._given[name])
        return face

    def open(self, name: str) -> Face:
        if name in self._databases:  # a connection belongs to its thread: each asker gets one of its own
            path, writable = self._databases[name]
            return sqlite.connect(path, writable=writable)
        held = self.held(name)
        return held if held is not None else self.wrap(name, *self.channel.ask("open", {"name": name}))

    def wrap(self, name: str, body: Any, fds: list[int]) -> Face:
        """The face for what the bus answered; takes the descriptors over."""
        kind = body.get("kind", "") if isinstance(body, dict) else ""
        try:
            face = self._face(name, kind, fds)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        if kind != "connect":  # a connection is a new one each time; the others are the same for good
            self._faces[name] = face
        return face

    def _face(self, name: str, kind: str, fds: list[int]) -> Face:
        if kind == "clock" and len(fds) == 2:
            return Clock(fds[0], fds[1], self._clock_ns)
        if kind == "random" and len(fds) == 1:
            return Random(fds[0])
        if kind == "secret" and len(fds) == 1:
            return Secret(fds[0])
        if kind == "connect" and len(fds) == 1:
            to = next((each.to for each in self._grants if each.name == name), None)
            return connection(fds[0], outward=to is not None and ":" in to)
        raise Unavailable(f"{name!r} came as {len(fds)} descriptors of the kind {kind!r}, which this sdk does not know")


_program: Program | None = None


def bind(kit: Kit, clock_ns: Callable[[], int] = time.time_ns) -> Program:
    """Called by the runtime in each instance, once, before any code of the program runs in it.

    `clock_ns`: the one reader of the clock grant's timer. In an instance the trap is that, and answers time.time_ns.
    """
    global _program
    _program = Program(kit, clock_ns)
    return _program


def unbind() -> None:
    """In a zygote that has practised `bind`."""
    global _program
    _program = None


def current() -> Program:
    """Raises Unavailable where there is no kit."""
    if _program is None:
        raise Unavailable(
            "nothing was granted yet: fildes.sdk works in an instance, from its start-up (lifespan) on; not while the "
            "program is being loaded, and not outside Fildes (publish it: fildes publish DIR)"
        )
    return _program


__all__ = ["Denied", "Face", "Grant", "Program", "Unavailable", "bind", "current"]
