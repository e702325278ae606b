"""What a candidate has to do before it becomes current: its `on_release` commands, and an answer to its `health` check.

The commands run one after the other, before its first instance is started: that may need what they make. What fails is
told with the command and its last lines; the catalogue adds the line of the manifest.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from fildes.daemon.peer import Peer, Refused
from fildes.kernel import sockets
from fildes.kernel.fds import Fd, close_all, send_with_fds, stream_pair
from fildes.kernel.loop import Loop
from fildes.orchestrator.commands import Command
from fildes.orchestrator.tee import Tee
from fildes.wire import command as words
from fildes.wire import log, web
from fildes.wire.catalogue import Release
from fildes.wire.conveyor import encode_introduction
from fildes.wire.publish import Progress

_LATE: Final = 1.0  # seconds for what a command wrote last
_ASKER: Final = "health check"  # no service's name has a space

Begin = Callable[[Sequence[str], Sequence[Fd]], Awaitable[Command]]


class Rehearsal:
    """`ticket`: of the publish that is told how it goes; "" of none."""

    def __init__(self, loop: Loop, peer: Peer, release: Release, ticket: str, limit: float) -> None:
        self._loop, self._peer, self._release, self._ticket, self._limit = loop, peer, release, ticket, limit
        self.phases: dict[str, float] = {}
        self._running: Command | None = None
        self._given_up = False

    def give_up(self) -> None:
        """Whoever publishes is gone: what runs is ended, and `check` raises from now on."""
        self._given_up = True
        if self._running is not None:
            self._running.end()

    def check(self) -> None:
        """Raises Refused when it was given up."""
        if self._given_up:
            raise Refused("cancelled", "whoever asked for this publish is gone; it was given up")

    def _tell(self, phase: str, text: str, ms: float = -1.0) -> None:
        if self._ticket:
            self._peer.tell("debug.progress", Progress(self._ticket, phase, text, ms))

    # — commands —

    async def commands(self, begin: Begin) -> None:
        """All of them, each by `begin(arguments, streams)`. Raises Refused, "on_release.N", at the first that fails."""
        for index, text in enumerate(self._release.on_release):
            self.check()
            began = self._loop.time()
            self._tell("on_release", text)
            await self._command(index, text, begin)
            ms = (self._loop.time() - began) * 1000
            self._tell("on_release", text, ms)
            self.phases["on_release"] = self.phases.get("on_release", 0.0) + ms

    async def _command(self, index: int, text: str, begin: Begin) -> None:
        opened = await self._peer.ask("log.open", log.Open(self._release.service, self._release.id))
        empty, nobody = _pipe()
        nobody.close()
        reader, writer = _pipe()
        tee = Tee(self._loop, reader, opened.fds[0], lambda lines: self._tell("", "\n".join(lines)))
        try:
            command = await begin(shlex.split(text), [empty, writer, writer])
        except BaseException:
            tee.close()
            raise
        finally:
            close_all([empty, writer])
        self._running = command
        if self._given_up:  # while it was started
            command.end()
        overdue = self._loop.call_later(self._limit, command.end)
        word = await command.ended
        self._running = None
        late = overdue.when <= self._loop.time()
        overdue.cancel()
        closing = self._loop.call_later(_LATE, tee.close)  # a sibling may have kept the other end
        await tee.over
        closing.cancel()
        self.check()
        if word.status:
            raise Refused(f"on_release.{index}", failure(text, word, list(tee.last), self._limit if late else None))

    # — health —

    async def health(self, conveyor: Fd, why: Callable[[], str]) -> None:
        """Over `conveyor` (consumed), its sending end. Raises Refused, "health", with `why()` where that says more."""
        with conveyor:
            if not self._release.health:
                return
            began = self._loop.time()
            host, path = where(self._release)
            text = f"GET {path} of {host}"
            self._tell("health", text)
            found = await self._ask(conveyor, web.Probe(host, path, self._release.limits.timeout))
        ms = (self._loop.time() - began) * 1000
        if 200 <= found.status < 400:
            self._tell("health", f"{text}: {found.status}", ms)
            self.phases["health"] = ms
            return
        if not found.status:
            await self._loop.sleep(_LATE)  # if it died, what of will be known
        more = f" ({why()})" if why() and not found.status else ""
        printed = f"what it printed shows: fildes logs {self._release.service}"
        raise Refused("health", f"{text}: {found.text}{more}; an answer below 400 was expected; {printed}")

    async def _ask(self, conveyor: Fd, probe: web.Probe) -> web.Probed:
        ours, theirs = stream_pair()
        with theirs:
            try:
                for end in (ours, theirs):
                    sockets.refuse_rights(end.fileno())
                introduction = encode_introduction(_ASKER)
                send_with_fds(conveyor.fileno(), introduction, [theirs.fileno()], socket.MSG_DONTWAIT)
            except BaseException:
                ours.close()
                raise
        answer = await self._peer.ask("web.probe", probe, [ours], reply=web.Probed, timeout=probe.seconds + 15)
        return answer.body


def where(release: Release) -> tuple[str, str]:
    """Host and path that are asked: those of its first place. Pure."""
    host, _, prefix = release.hosts[0].partition("/") if release.hosts else (f"{release.service}.localhost", "", "")
    return host, f"/{prefix}{release.health}" if prefix else release.health


def failure(text: str, word: words.Ended, last: list[str], limit: float | None) -> str:
    """What became of a command that failed. Pure."""
    how = f"ended with status {word.status >> 8}" if not word.status & 0x7F else word.text or "was ended by a signal"
    if limit is not None:
        how = f"took more than {limit:g} s, and was ended"
    said = "".join(f"\n    {line}" for line in last)
    return f"`{text}` {how.removeprefix('it ')}; " + (f"it said last:{said}" if said else "it printed nothing")


def _pipe() -> tuple[Fd, Fd]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return Fd(reader), Fd(writer)
