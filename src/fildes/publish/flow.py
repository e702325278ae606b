"""One publish, from the tar to the answer: its table of contents.

Every step either gives what the next one needs, or raises Refused with the sentence for who published. Nothing is
changed until the catalogue's own step, which is atomic; whatever happens, the scratch is swept.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable
from typing import Any, Final

import msgspec

from fildes.daemon.peer import Asked, Peer, Refused
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop, Task
from fildes.publish import upload
from fildes.publish.children import in_child
from fildes.publish.resolver import Resolver
from fildes.publish.scratch import Job, Scratch, digest
from fildes.publish.turns import Turns
from fildes.publish.upload import Upload
from fildes.wire import catalogue
from fildes.wire.publish import Cancel, Progress, Publish

AT_ONCE: Final = 3
MAX_QUEUE: Final = 32
UNPACK_SECONDS: Final = 120.0
BUNDLE_SECONDS: Final = 120.0
CATALOGUE_SECONDS: Final = 600.0  # it warms the release within it, and has limits of its own

Tell = Callable[[str, str, float], None]  # phase, text, ms


class Publishing:
    """`index`: the node's package indexes, for what a lock depends on."""

    def __init__(self, loop: Loop, peer: Peer, scratch: Scratch, resolver: Resolver, index: dict[str, Any]) -> None:
        self._loop, self._peer, self._scratch, self._resolver = loop, peer, scratch, resolver
        self._urls: list[str] = list(index.get("urls", ()))
        self._turns = Turns(loop, AT_ONCE)
        self._running: dict[str, Task[catalogue.Published]] = {}

    async def publish(self, asked: Asked[Publish]) -> catalogue.Published:
        """publish.publish. Raises Refused."""
        ticket = asked.body.ticket
        if ticket in self._running:
            raise Refused("protocol", "this ticket is being published already")
        if self._turns.waiting >= MAX_QUEUE:
            raise Refused("busy", f"{MAX_QUEUE} publishes are waiting already; try again in a minute")
        (archive,) = asked.take_fds(1)
        task = self._running[ticket] = self._loop.spawn(self._one(asked.body, archive))
        try:
            return await task
        finally:
            del self._running[ticket]

    def cancel(self, asked: Asked[Cancel]) -> None:
        """publish.cancel: whoever asked is gone."""
        task = self._running.get(asked.body.ticket)
        if task is not None:
            task.cancel()

    # — the flow —

    async def _one(self, body: Publish, archive: Fd) -> catalogue.Published:
        def tell(phase: str, text: str, ms: float) -> None:
            self._peer.tell("debug.progress", Progress(body.ticket, phase, text, ms))

        with archive:
            async with self._turns.any():
                job = self._begin()
                try:
                    taken, index = await self._take_in(job, body, archive, tell)
                    with index:
                        async with self._turns.of((body.owner, taken.manifest.name)):
                            return await self._carry_through(job, body, taken, index, tell)
                finally:
                    job.sweep()
                    self._resolver.sweep(job.name)

    async def _carry_through(
        self, job: Job, body: Publish, taken: Upload, index: Fd, tell: Tell
    ) -> catalogue.Published:
        lock, made = await self._lock(job, body, taken, tell)
        bundle, name = await self._bundle(job, index, made)
        with bundle:
            abi = "" if taken.manifest.runtime == "static" else abi_of_this_node()
            known = catalogue.Known(body.owner, name, abi)
            knowledge = await self._peer.ask("catalogue.known", known, reply=catalogue.Knowledge)
            files: list[Fd] = []
            if knowledge.body.pack is None:
                pack = await self._pack(job, body, taken, lock, tell)
                files = [bundle.dup(), pack]
            else:
                tell("pack", "known already: nothing to install or to pack", 0.0)
            message = catalogue.Publish(body.owner, taken.manifest, name, abi, body.ticket)
            answer = await self._peer.ask(
                "catalogue.publish", message, files, reply=catalogue.Published, timeout=CATALOGUE_SECONDS
            )
        return answer.body

    def _begin(self) -> Job:
        try:
            return self._scratch.begin(os.urandom(8).hex())
        except OSError as error:
            text = f"the node's scratch directory can't be written ({error.strerror}); free some space, publish again"
            raise Refused("disk-full", text) from error

    async def _take_in(self, job: Job, body: Publish, archive: Fd, tell: Tell) -> tuple[Upload, Fd]:
        source = job.source.fileno()
        value, fds = await in_child(
            self._loop,
            lambda report: upload.take_in(archive.fileno(), source, body.name, report),
            keep=[archive.fileno(), source],
            seconds=UNPACK_SECONDS,
            report=tell,
        )
        try:
            taken = upload.decode(value)
            if len(fds) != 1:
                raise ValueError("no index of the tree")
        except (msgspec.MsgspecError, ValueError) as error:
            close_all(fds)
            raise Refused("internal", f"the upload could not be read: {error}") from error
        return taken, fds[0]

    async def _lock(self, job: Job, body: Publish, taken: Upload, tell: Tell) -> tuple[str, bytes | None]:
        """(what to install, the lock that was made here and not uploaded)."""
        if not taken.lines:
            return taken.lock, None
        began = self._loop.time()
        key = digest(body.owner, taken.manifest.name, taken.lines, abi_of_this_node(), self._urls)
        lock = None if body.upgrade else self._scratch.lock_for(key)
        if lock is None:
            lines = "".join(f"{line}\n" for line in taken.lines).encode()
            lock = await self._resolver.lock(job.name, digest(body.owner), lines)
            self._scratch.keep_lock(key, lock)
            text = f"{lock.count(b'==')} packages, locked"
        else:
            text = f"{lock.count(b'==')} packages, locked before"
        tell("resolve", text, (self._loop.time() - began) * 1000)
        return lock.decode(), lock

    async def _bundle(self, job: Job, index: Fd, lock: bytes | None) -> tuple[Fd, str]:
        """The bundle's file and its sha256."""
        bundle = job.bundle()
        numbers = (index.fileno(), job.source.fileno(), bundle.fileno())
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

    async def _pack(self, job: Job, body: Publish, taken: Upload, lock: str, tell: Tell) -> Fd:
        site = ""
        if lock:
            began = self._loop.time()
            site = digest(body.owner, lock, abi_of_this_node())
            text = await self._resolver.install(job.name, digest(body.owner), site, lock.encode())
            tell("install", f"{lock.count('==')} packages, {text}", (self._loop.time() - began) * 1000)
        began = self._loop.time()
        text, pack = await self._resolver.pack(job.name, job.tree, site, byte_code=taken.manifest.runtime != "static")
        tell("pack", text, (self._loop.time() - began) * 1000)
        return pack


def abi_of_this_node() -> str:
    """The ABI of the interpreter that releases run on, as in "cpython-313-x86_64-linux-gnu"."""
    return str(sysconfig.get_config_var("SOABI"))
