"""One publish, from the tar to the answer: its table of contents.

Every step either gives what the next one needs, or raises Refused with the sentence for who published. Nothing is
changed until the catalogue's own step, which is atomic; whatever happens, the scratch is swept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from fildes.daemon.abi import ABI
from fildes.daemon.peer import Asked, Peer, Refused
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Cancelled, Loop, Task
from fildes.publish import environment, lockfile, upload
from fildes.publish.children import DISK_FULL, in_child
from fildes.publish.members import Own
from fildes.publish.resolver import Resolver
from fildes.publish.scratch import Job, Scratch, digest
from fildes.publish.turns import Turns
from fildes.publish.upload import Kept, Needs, Upload, Wish
from fildes.wire import catalogue
from fildes.wire.publish import Cancel, Clean, Cleaned, Lock, Progress, Publish, Repack

AT_ONCE: Final = 3
MAX_QUEUE: Final = 32
MAX_OF_ONE: Final = MAX_QUEUE // 2  # owner, under way and waiting
UNPACK_SECONDS: Final = 120.0
BUNDLE_SECONDS: Final = 120.0
CATALOGUE_SECONDS: Final = 86400.0  # it has limits of its own: the program loads, its commands run

Tell = Callable[[str, str, float], None]  # phase, text, ms


@dataclass(frozen=True)
class Sources:
    """An upload that was taken in; the descriptors are borrowed from the flow."""

    upload: Upload
    needs: Needs
    index: Fd
    contents: Fd


@dataclass(frozen=True)
class Order:
    """What is to be done, whoever asked for it."""

    ticket: str
    owner: str
    wish: Wish


class Publishing:
    def __init__(self, loop: Loop, peer: Peer, scratch: Scratch, resolver: Resolver) -> None:
        self._loop, self._peer, self._scratch, self._resolver = loop, peer, scratch, resolver
        self._turns = Turns(loop, AT_ONCE)
        self._running: dict[str, Task[catalogue.Published]] = {}
        self._owners: dict[str, str] = {}  # ticket → whose it is

    async def publish(self, asked: Asked[Publish]) -> catalogue.Published:
        """publish.publish. Raises Refused."""
        body = asked.body
        self._admit(body.ticket)
        (archive,) = asked.take_fds(1)
        wish = Wish(name=body.name, upgrade=body.upgrade, lock=body.lock, folder=body.folder)
        return await self._run(Order(body.ticket, body.owner, wish), archive)

    async def repack(self, asked: Asked[Repack]) -> catalogue.Published:
        """publish.repack: the stored sources of a release, as they would be published now. Raises Refused."""
        body = asked.body
        self._admit(body.ticket)
        question = catalogue.Sources(body.service, body.release)
        found = await self._peer.ask("catalogue.sources", question, reply=catalogue.Sourced)
        stored, (bundle,) = found.body, found.fds
        return await self._run(Order(body.ticket, stored.owner, Wish(manifest=stored.manifest)), bundle)

    async def lock(self, asked: Asked[Lock]) -> tuple[Lock, list[Fd]]:
        """publish.lock: the lock of a service's current release, a sealed memfd; none where it has none."""
        async with self._turns.any():
            kept = await self._kept(asked.body.service)
        return asked.body, [] if kept is None else [memfd.sealed("lock", kept.lock)]

    def _admit(self, ticket: str) -> None:
        if ticket in self._running:
            raise Refused("protocol", "this ticket is being published already")
        if self._turns.waiting >= MAX_QUEUE:
            raise Refused("busy", f"{MAX_QUEUE} publishes are waiting already; try again in a minute")

    async def _run(self, order: Order, archive: Fd) -> catalogue.Published:
        if sum(owner == order.owner for owner in self._owners.values()) >= MAX_OF_ONE:
            archive.close()
            raise Refused(
                "busy", f"{MAX_OF_ONE} publishes of {order.owner} are under way already; wait for one of them"
            )
        task = self._running[order.ticket] = self._loop.spawn(self._one(order, archive))
        self._owners[order.ticket] = order.owner
        try:
            return await task
        except Cancelled as error:
            raise Refused("cancelled", "whoever asked for this publish is gone; nothing was changed") from error
        finally:
            del self._running[order.ticket], self._owners[order.ticket]

    async def clean(self, asked: Asked[Clean]) -> Cleaned:
        """publish.clean. Raises Refused: not while somebody publishes, who may be about to use what is there."""
        if self._running:
            raise Refused("busy", f"{len(self._running)} publishes are under way; run fildes gc when they are done")
        return Cleaned(await self._resolver.clean(os.urandom(8).hex()))

    def cancel(self, asked: Asked[Cancel]) -> None:
        """publish.cancel: whoever asked is gone."""
        task = self._running.get(asked.body.ticket)
        if task is not None:
            task.cancel()

    # — the flow —

    async def _one(self, order: Order, archive: Fd) -> catalogue.Published:
        def tell(phase: str, text: str, ms: float) -> None:
            self._peer.tell("debug.progress", Progress(order.ticket, phase, text, ms))

        with archive:
            async with self._turns.any():
                job, contents = self._begin()
                try:
                    with contents:
                        sources = await self._take_in(contents, order.wish, archive, tell)
                        with sources.index:
                            async with self._turns.of((order.owner, sources.upload.manifest.name)):
                                return await self._carry_through(job, order, sources, tell)
                finally:
                    job.sweep()
                    self._resolver.sweep(job.name)

    async def _carry_through(self, job: Job, order: Order, sources: Sources, tell: Tell) -> catalogue.Published:
        taken = sources.upload
        lock, made = await self._lock(job, order, sources, tell)
        began = self._loop.time()
        bundle, name = await self._bundle(job, sources, made)
        with bundle:
            tell("bundle", name[:12], (self._loop.time() - began) * 1000)
            abi = "" if taken.manifest.runtime == "static" else ABI
            known = catalogue.Known(order.owner, name, abi)
            knowledge = await self._peer.ask("catalogue.known", known, reply=catalogue.Knowledge)
            files: list[Fd] = []
            if knowledge.body.pack is None:
                pack = await self._pack(job, order, sources, lock, tell)
                files = [bundle.dup(), pack]
            else:
                tell("pack", "known already: nothing to install or to pack", 0.0)
            if made is not None:  # not before: what an index lied about would be kept
                self._scratch.keep_lock(self._key(order.owner, sources), made)
            message = catalogue.Publish(order.owner, taken.manifest, name, abi, order.ticket)
            try:
                answer = await self._go_live(message, files)
            except Refused as refused:
                if files or refused.code != "not-stored":
                    raise
                # They were when we asked: the publish that brought them has failed since.
                pack = await self._pack(job, order, sources, lock, tell)
                answer = await self._go_live(message, [bundle.dup(), pack])
        return answer

    async def _go_live(self, message: catalogue.Publish, files: list[Fd]) -> catalogue.Published:
        answer = await self._peer.ask(
            "catalogue.publish", message, files, reply=catalogue.Published, timeout=CATALOGUE_SECONDS
        )
        return answer.body

    def _begin(self) -> tuple[Job, Fd]:
        """The job's directory, and a file in it for what is in the upload's files."""
        try:
            job = self._scratch.begin(os.urandom(8).hex())
            return job, job.new_file("contents")
        except OSError as error:
            text = f"the node's scratch directory can't be written ({error.strerror}); free some space, publish again"
            raise Refused("disk-full", text) from error

    async def _take_in(self, contents: Fd, wish: Wish, archive: Fd, tell: Tell) -> Sources:
        numbers = (archive.fileno(), contents.fileno())
        value, fds = await in_child(
            self._loop,
            lambda report: upload.take_in(*numbers, wish, report),
            keep=numbers,
            seconds=UNPACK_SECONDS,
            report=tell,
        )
        try:
            taken = upload.read_answer(value)
            index, told = fds
            needs = upload.read_needs(told.fileno())
        except (msgspec.MsgspecError, ValueError) as error:
            close_all(fds)
            raise Refused("internal", f"the upload could not be read: {error}") from error
        told.close()
        return Sources(taken, needs, index, contents)

    async def _lock(self, job: Job, order: Order, sources: Sources, tell: Tell) -> tuple[str, bytes | None]:
        """(what to install, the lock that was made here and not uploaded)."""
        service, needs = sources.upload.manifest.name, sources.needs
        if needs.lock:
            tell("resolve", f"{needs.lock.count('==')} packages, as {needs.source} has them", 0.0)
        if not needs.lines:
            return needs.lock, None
        began = self._loop.time()
        meant = lockfile.key(needs.lines)
        lock, before, how = None, needs.before, "locked"
        if not order.wish.upgrade and not before:
            lock, how = self._scratch.lock_for(self._key(order.owner, sources)), "locked before"
            if lock is None:
                lock, before = await self._as_before(order.owner, service, meant)
        if lock is None:
            lines = "".join(f"{line}\n" for line in needs.lines).encode()
            old = "".join(f"{line}\n" for line in before).encode()
            lock = await self._resolver.lock(job.name, digest(order.owner), needs.source, lines, old)
            how = "locked"
            lock = lockfile.with_head(lock, needs.lines, needs.source)
        tell("resolve", f"{lock.count(b'==')} packages, {how}", (self._loop.time() - began) * 1000)
        return lockfile.plain(lock), lock

    def _key(self, owner: str, sources: Sources) -> str:
        return digest(owner, sources.upload.manifest.name, lockfile.key(sources.needs.lines), ABI)

    async def _as_before(self, owner: str, service: str, meant: str) -> tuple[bytes | None, tuple[str, ...]]:
        """The lock of the current release, if it is of the same requirements and the same Python; else its lines, whose
        versions are kept where they can."""
        kept = await self._kept(service, owner)
        if kept is None:
            return None, ()
        if lockfile.head(kept.lock) == (environment.python(), meant):
            return kept.lock, ()
        return None, kept.lines

    async def _kept(self, service: str, owner: str | None = None) -> Kept | None:
        """The lock in the bundle of the current release, None if there is neither or it is another owner's."""
        try:
            found = await self._peer.ask("catalogue.sources", catalogue.Sources(service), reply=catalogue.Sourced)
        except Refused as refused:
            if refused.code not in ("not-found", "state"):
                raise
            return None
        with found.fds[0] as bundle:
            if owner not in (None, found.body.owner):
                return None
            job, contents = self._begin()
            try:
                with contents:
                    numbers = (bundle.fileno(), contents.fileno())
                    _, fds = await in_child(
                        self._loop, lambda _: upload.lock_of(*numbers), keep=numbers, seconds=UNPACK_SECONDS
                    )
            except Refused:
                return None
            finally:
                job.sweep()
        with fds[0] as told:
            close_all(fds[1:])
            return upload.read_kept(told.fileno())

    async def _bundle(self, job: Job, sources: Sources, lock: bytes | None) -> tuple[Fd, str]:
        """The bundle's file and its sha256."""
        try:
            bundle = job.new_file("bundle")
        except OSError as error:
            raise Refused(*DISK_FULL) from error
        numbers = (sources.index.fileno(), sources.contents.fileno(), bundle.fileno())
        try:
            name, fds = await in_child(
                self._loop,
                lambda _: upload.seal(numbers[0], numbers[1], lock, numbers[2]),
                keep=numbers,
                seconds=BUNDLE_SECONDS,
            )
            close_all(fds)
        except BaseException:
            bundle.close()
            raise
        return bundle, str(name)

    async def _pack(self, job: Job, order: Order, sources: Sources, lock: str, tell: Tell) -> Fd:
        site = ""
        if lock:
            began = self._loop.time()
            site = digest(order.owner, lock, ABI)
            source = sources.needs.source
            text = await self._resolver.install(job.name, digest(order.owner), site, source, lock.encode())
            tell("install", f"{lock.count('==')} packages, {text}", (self._loop.time() - began) * 1000)
        began = self._loop.time()
        byte_code = sources.upload.manifest.runtime != "static"
        index, contents = sources.index.dup(), job.read_only("contents")
        own = Own(sources.upload.roots, sources.upload.metadata)
        text, pack = await self._resolver.pack(job.name, site, index, contents, byte_code=byte_code, own=own)
        tell("pack", text, (self._loop.time() - began) * 1000)
        return pack
