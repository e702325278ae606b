"""What changes a service: publish, rollback, remove. One at a time for each service, all services side by side.

The order of a publish is the promise: policy, files, candidate, warm, one transaction, the subscribers, the answer.
A failure at any step leaves what was served before. Killed at any step, the next start (`recover`) finds a candidate
that nobody waits for, or files that no row speaks of, and takes them away.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import msgspec

from fildes.catalogue import policy, view
from fildes.catalogue.database import Change, Database
from fildes.catalogue.faults import BadState, NoSpace
from fildes.catalogue.lookup import Stored
from fildes.catalogue.objects import Objects
from fildes.catalogue.receiving import receive
from fildes.daemon.peer import Asked, Peer, Refused
from fildes.kernel import memfd
from fildes.kernel.loop import Loop, Promise
from fildes.manifest import words
from fildes.manifest.problems import Problem, quote, show_all
from fildes.manifest.verify import verify
from fildes.wire import storage
from fildes.wire.catalogue import AUDIENCES, Manifest, Publish, Published, Remove, Removed, Rollback
from fildes.wire.log import Forget
from fildes.wire.orchestrator import Warm, Warmed
from fildes.wire.publish import Progress

KEEP: Final = 5  # old releases of a service that one can go back to
WARM_SECONDS: Final = 300.0  # the orchestrator has limits of its own, and better words
COMMAND_SECONDS: Final = 3600.0  # above what `fildes up --command-limit` may say
AGAIN_SECONDS: Final = 10.0


class Publishing:
    """`listening`: the node's "address:port"s, for the URLs in answers. `wall` tells unix seconds."""

    def __init__(
        self, loop: Loop, peer: Peer, db: Database, objects: Objects, listening: list[str], wall: Callable[[], float]
    ) -> None:
        self.loop, self.peer, self.db, self.objects = loop, peer, db, objects
        self._listening, self._wall = listening, wall
        self._turns: dict[str, Promise[None]] = {}

    def recover(self) -> list[str]:
        """At the start: give up what was under way, sweep files, and let subscribers notice what they missed.

        Returns the hashes of files that are lost.
        """
        passing = self.db.passing()
        if passing:
            self._abandon(*passing)
        lost = self.objects.sweep(self.db.objects())
        number = self.db.number()
        self.announce(Change(number, number, [], [], []))
        return lost

    async def publish(self, asked: Asked[Publish]) -> Published:
        """Raises Refused, NoSpace, BadState."""
        body, watch = asked.body, _Watch(self.loop)
        async with self._turn(body.manifest.name):
            current = self.db.current(body.manifest.name)
            if current is not None and _unchanged(current, body):
                return self._published(current, watch, unchanged=True)
            if not words.OWNER.fullmatch(body.owner):
                raise Refused("not-allowed", f"{quote(body.owner)} cannot be an owner's name")
            left = await self._left_behind(body.manifest, body.owner)
            self._check(body.manifest, body.owner, left=left)
            if current is None and self.db.tried_by_others(body.manifest.name, body.owner):
                await self._forget_log(body.manifest.name)  # what failed publishes of theirs left in it
            watch.lap("check")
            with self.objects.pins(self.db.has_object) as pin:
                files = await receive(self.db, self.objects, body, asked.fds, pin)
                id = os.urandom(6).hex()
                new = self.db.add_candidate(id, body.owner, body.manifest, self._wall(), *files, abi=body.abi)
            watch.lap("store")
            return await self._go_live(new, watch, body.ticket, body.manifest.filename, left)

    async def rollback(self, asked: Asked[Rollback]) -> Published:
        """Raises Refused, NoSpace, BadState."""
        body, watch = asked.body, _Watch(self.loop)
        async with self._turn(body.service):
            self.owner_of(body.service, body.owner)
            current = self.db.current(body.service)
            if body.release is None:
                wanted = self.db.before(current.id) if current is not None else None
            else:
                wanted = self.db.find(body.release)
            if wanted is None or wanted.service != body.service or wanted.state not in ("old", "current"):
                what = f"release {body.release}" if body.release else "release before the current one"
                newer = "" if body.release else f"; a newer one: fildes rollback {body.service} --to RELEASE"
                text = f"{body.service} has no {what}; those there are: fildes releases {body.service}{newer}"
                raise Refused("not-found", text)
            if current is not None and wanted.id == current.id:
                return self._published(current, watch, unchanged=True)
            left = await self._left_behind(wanted.manifest, wanted.owner)
            self._check(wanted.manifest, wanted.owner, f"release {wanted.id}, {wanted.manifest.filename}", left)
            if not (self.objects.has(wanted.bundle) and self.objects.has(wanted.pack)):
                raise BadState(f"the files of release {wanted.id} are lost: publish {body.service} again")
            watch.lap("check")
            self.db.mark_returning(wanted.id)
            filename = f"release {wanted.id}, {wanted.manifest.filename}"
            return await self._go_live(wanted, watch, body.ticket, filename, left)

    async def remove(self, asked: Asked[Remove]) -> Removed:
        """Raises Refused, NoSpace, BadState."""
        service = asked.body.service
        async with self._turn(service):
            self.owner_of(service, asked.body.owner)
            try:
                change, count = self.db.remove(service)
            except NoSpace:
                self.objects.spend_spare()
                change, count = self.db.remove(service)
            self.announce(change)
            self.objects.keep_spare()
        self.loop.spawn(self._forget_log(service))
        return Removed(service=service, releases=count)

    def owner_of(self, service: str, asker: str | None) -> str:
        """Whose the service is. Refused if there is none, or it is not `asker`'s (None: an operator)."""
        owner = self.db.owner(service)
        if owner is None:
            raise Refused("not-found", f"there is no service {service!r}; those there are: fildes ps")
        if asker not in (None, owner):
            raise Refused("not-allowed", f"the service {service!r} belongs to another owner")
        return owner

    # — steps —

    def _check(self, manifest: Manifest, owner: str, filename: str | None = None, left: int = 0) -> None:
        facts = self.db.facts(manifest, owner)
        facts = replace(facts, data=facts.data + left)
        found = verify(manifest) or policy.check(manifest, owner, self.db.policy(owner), facts)
        if found:
            raise Refused("manifest", show_all(filename or manifest.filename, found))

    async def _left_behind(self, manifest: Manifest, owner: str) -> int:
        """Bytes on the disk of what the owner keeps under names that no manifest has any more: they would else fill it
        with one name after the other. 0 for a manifest that keeps nothing."""
        if not policy.lasting(manifest):
            return 0
        answer = await self.peer.ask("storage.kept", storage.AskKept(owner), reply=storage.KeptCount)
        [sealed] = answer.fds
        with sealed:
            kept = msgspec.msgpack.decode(memfd.read_sealed(sealed.fileno()), type=list[storage.Kept])
        names = self.db.lasting(owner, manifest.name) | {(manifest.name, grant) for grant in policy.lasting(manifest)}
        return sum(
            size
            for of in kept
            for grant, size in zip(of.grants, of.sizes, strict=True)
            if (of.service, grant) not in names
        )

    async def _go_live(self, new: Stored, watch: _Watch, ticket: str, filename: str, left: int) -> Published:
        """Warm it, make it the current one, tell everybody. Whatever fails: it is gone, and the old one goes on."""
        try:
            if new.manifest.runtime != "static":
                self._tell(ticket, "warm", "the program is loaded, confined, and started")
                message = Warm(new.release("candidate"), ticket)
                limit = warm_seconds(new.manifest)
                warmed = await self.peer.ask("orchestrator.warm", message, reply=Warmed, timeout=limit)
                watch.lap("warm")
                watch.laps.update({f"warm.{name}": ms for name, ms in warmed.body.phases.items()})
            # Others were served while it warmed: what it claims may be taken by now.
            self._check(new.manifest, new.owner, left=left)
            try:
                change = self.db.switch(new, self._wall(), KEEP)
            except sqlite3.IntegrityError as error:
                raise BadState(f"the database refused the change: {error}") from error
        except Refused as refused:
            self._abandon(new.id)
            if refused.code == "manifest":
                raise
            if refused.code == "health" or refused.code.startswith("on_release."):
                text = show_all(filename, [failed_line(new.manifest, refused.code, refused.text)])
                raise Refused("warm", text) from refused
            raise Refused("warm", refused.text, refused.grant) from refused
        except BaseException:
            self._abandon(new.id)
            raise
        self.announce(change)
        watch.lap("switch")
        return self._published(new, watch, replaced=next(iter(change.gone), ""))

    def _tell(self, ticket: str, phase: str, text: str) -> None:
        """What is waited for now, to whoever publishes."""
        if ticket:
            self.peer.tell("debug.progress", Progress(ticket, phase, text, -1.0))

    def _abandon(self, *ids: str) -> None:
        try:
            self.announce(self.db.abandon(list(ids)))
        except (NoSpace, BadState) as error:
            # Its files and its zygote cost room until then, and nothing else.
            self.loop.on_error(error)
            self.loop.call_later(AGAIN_SECONDS, lambda: self._abandon(*ids))

    def announce(self, change: Change) -> None:
        """Tell all subscribers, and let go of files that nobody needs now."""
        for audience in AUDIENCES:
            delta = view.delta(audience, change.after, change.number, change.put, change.gone)
            self.peer.tell(f"{audience}.delta", delta)
        self.objects.discard(change.unused)

    async def _forget_log(self, service: str) -> None:
        try:
            await self.peer.ask("log.forget", Forget(service))
        except Refused as error:
            self.loop.on_error(error)

    def _published(self, of: Stored, watch: _Watch, unchanged: bool = False, replaced: str = "") -> Published:
        return Published(
            release=of.id,
            service=of.service,
            urls=view.urls(of.manifest.hosts, self._listening),
            unchanged=unchanged,
            phases=watch.laps,
            replaced=replaced,
        )

    @asynccontextmanager
    async def _turn(self, service: str) -> AsyncIterator[None]:
        while service in self._turns:
            await self._turns[service]
        mine: Promise[None] = Promise(self.loop)
        self._turns[service] = mine
        try:
            yield
        finally:
            del self._turns[service]
            mine.resolve(None)


class _Watch:
    """Laps in milliseconds."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._last = loop.time()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._loop.time()
        self.laps[name] = round((now - self._last) * 1000, 3)
        self._last = now


def warm_seconds(manifest: Manifest) -> float:
    """How long the orchestrator may take: longer than all its own limits together. Pure."""
    return (
        WARM_SECONDS + COMMAND_SECONDS * len(manifest.on_release) + (manifest.limits.timeout if manifest.health else 0)
    )


def failed_line(manifest: Manifest, code: str, text: str) -> Problem:
    """A command or the health check failed: at its line of the manifest. `code`: "on_release.0", "health". Pure."""
    key, _, index = code.partition(".")
    line = manifest.lines.get(code) or manifest.lines.get(key, 0)
    return Problem(line, f"{key}[{index}]: {text}" if index else f"{key}: {text}")


def _unchanged(current: Stored, body: Publish) -> bool:
    same_files = (current.owner, current.bundle, current.abi) == (body.owner, body.bundle, body.abi)
    return same_files and view.same(current.manifest, body.manifest)
