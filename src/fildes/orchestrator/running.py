"""`orchestrator.run`: from a service's name, or a release's, to a zygote that runs the command.

The current release's zygote is forked, loaded first if there is none. A program that had threads when it was loaded
can't be forked, an earlier release is not kept loaded, and one that crashed too often is not to be started again: for a
command of those a zygote is loaded that ends with it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fildes.daemon.peer import Asked, Peer, Refused
from fildes.daemon.store import Store
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop
from fildes.orchestrator import loading
from fildes.orchestrator.commands import Command, Commands
from fildes.orchestrator.plan import State
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.supervised import Supervised
from fildes.orchestrator.zygotes import Zygote
from fildes.wire import command as words
from fildes.wire import log
from fildes.wire.catalogue import FindRelease, Release
from fildes.wire.orchestrator import Run, Running

_TERMINAL: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}")


class Runs:
    """`releases`: the current ones, by id; `of` gives the Supervised of those and of candidates."""

    def __init__(
        self,
        loop: Loop,
        peer: Peer,
        store: Store,
        resources: Resources,
        releases: Callable[[], Mapping[str, Release]],
        of: Callable[[Release], Supervised | None],
    ) -> None:
        self._loop, self._peer, self._store, self._resources = loop, peer, store, resources
        self._releases, self._of = releases, of
        self._alone: dict[str, Commands] = {}  # release id → those that run in zygotes of their own

    async def run(self, asked: Asked[Run]) -> Running:
        """Raises Refused."""
        lease, *streams = asked.take_fds(4)
        try:
            body = asked.body
            release = await self._release(body)
            try:
                words.invocation(body.arguments)
            except ValueError as error:
                raise Refused("malformed", str(error)) from error
            environment = {"TERM": body.terminal} if _TERMINAL.fullmatch(body.terminal) else {}
            command = await self.begin(release, body.arguments, environment, streams, lease)
            self._loop.spawn(self._record(release, body.arguments, command))
            return Running(release.id, command.name)
        finally:
            close_all([lease, *streams])

    async def begin(
        self,
        release: Release,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        streams: Sequence[Fd],
        lease: Fd | None = None,
    ) -> Command:
        """One of a current release or a candidate, in a fork of its zygote where that can be, else alone. Raises
        Refused. The descriptors are borrowed."""
        supervised = self._of(release)
        if supervised is not None and supervised.frozen:
            raise Refused("frozen", f"{release.service} is frozen; let it go on first: fildes thaw {release.service}")
        if supervised is not None and supervised.state is not State.HALTED:
            zygote = await supervised.warm()
            if zygote.threads == 1:
                return await supervised.commands.begin(zygote, arguments, environment, streams, lease)
        return await self._begin_alone(release, arguments, environment, streams, lease)

    async def _release(self, body: Run) -> Release:
        current = next((found for found in self._releases().values() if found.service == body.service), None)
        if current is None:
            raise Refused("not-found", f"there is no service {body.service[:64]!r}; those there are: fildes ps")
        if body.release in (None, current.id):
            release = current
        else:
            answer = await self._peer.ask("catalogue.release", FindRelease(str(body.release)), reply=Release)
            release = answer.body
        if release.service != body.service:
            raise Refused(
                "not-found", f"{body.service} has no release {body.release!r}: fildes releases {body.service}"
            )
        if release.runtime == "static":
            raise Refused("not-allowed", f"{body.service} is a static site: it has no program that could run a command")
        return release

    async def _record(self, release: Release, arguments: list[str], command: Command) -> None:
        """In the service's log: what was run, without its words, which may be secret."""
        asked = words.invocation(arguments)
        what = {"file": asked.what, "module": f"-m {asked.what}", "code": "-c …", "console": "python"}[asked.kind]
        ended = await command.ended
        code, number = ended.status >> 8, ended.status & 0x7F
        text = f"by {signal.Signals(number).name}" if number else f"with status {code}"
        self._peer.tell(
            "log.append", log.Append(release.service, f"fildes run {what} (release {release.id}) ended {text}")
        )

    # — zygotes of their own —

    async def _begin_alone(
        self,
        release: Release,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        streams: Sequence[Fd],
        lease: Fd | None,
    ) -> Command:
        commands = self._alone.get(release.id)
        if commands is None:
            commands = Commands(self._loop, self._peer, self._store, self._resources, release)
            self._alone[release.id] = commands
        name = os.urandom(4).hex()
        zygote: Zygote | None = None
        try:
            zygote = await loading.load(
                self._loop, self._peer, self._store, self._resources, release, lambda _: None, alone=name
            )
            zygote.on_exited = commands.on_exited
            command = await commands.begin(zygote, arguments, environment, streams, lease)
        except BaseException:
            if zygote is not None:
                self._end(release, zygote, name)
            self._forget(release, commands)
            raise
        zygote.on_gone = lambda: commands.on_exit_word(command.name, 9 if zygote.status is None else zygote.status)
        command.ended.when_done(lambda: self._end(release, zygote, name))
        command.ended.when_done(lambda: self._forget(release, commands))
        return command

    def _end(self, release: Release, zygote: Zygote, name: str) -> None:
        zygote.on_gone = lambda: None
        self._resources.end(zygote)
        self._store.drop(loading.loading_key(release, name))

    def _forget(self, release: Release, commands: Commands) -> None:
        if not commands and self._alone.get(release.id) is commands:
            del self._alone[release.id]

    # — for whoever shows or ends them —

    def alone(self) -> list[Command]:
        return [command for commands in self._alone.values() for command in commands]

    def end(self, service: str) -> None:
        for command in self.alone():
            if command.service == service:
                command.end()
