"""One publish, from the tar to the answer: its table of contents.

Every step either gives what the next one needs, or raises Refused with the sentence for who published. Nothing is
changed until the catalogue's own step, which is atomic; whatever happens, the scratch is swept.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from fildes.daemon.peer import Asked, Peer, Refused
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Cancelled, Loop, Task
from fildes.publish import upload
from fildes.publish.children import DISK_FULL, in_child
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


@dataclass(frozen=True)
class Sources:
    """An upload that was taken in; the descriptors are borrowed from the flow."""

    upload: Upload
    index: Fd
    contents: Fd


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
        except Cancelled as error:
            raise Refused("cancelled", "whoever asked for this publish is gone; nothing was changed") from error
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
                job, contents = self._begin()
                try:
                    with contents:
                        taken, index = await self._take_in(contents, body, archive, tell)
                        with index:
                            async with self._turns.of((body.owner, taken.manifest.name)):
                                return await self._carry_through(job, body, Sources(taken, index, contents), tell)
                finally:
                    job.sweep()
                    self._resolver.sweep(job.name)

    async def _carry_through(self, job: Job, body: Publish, sources: Sources, tell: Tell) -> catalogue.Published:
        taken = sources.upload
        lock, made = await self._lock(job, body, taken, tell)
        began = self._loop.time()
        bundle, name = await self._bundle(job, sources, made)
        with bundle:
            tell("bundle", name[:12], (self._loop.time() - began) * 1000)
            abi = "" if taken.manifest.runtime == "static" else abi_of_this_node()
            known = catalogue.Known(body.owner, name, abi)
            knowledge = await self._peer.ask("catalogue.known", known, reply=catalogue.Knowledge)
            files: list[Fd] = []
            if knowledge.body.pack is None:
                pack = await self._pack(job, body, sources, lock, tell)
                files = [bundle.dup(), pack]
            else:
                tell("pack", "known already: nothing to install or to pack", 0.0)
            message = catalogue.Publish(body.owner, taken.manifest, name, abi, body.ticket)
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

    async def _take_in(self, contents: Fd, body: Publish, archive: Fd, tell: Tell) -> tuple[Upload, Fd]:
        numbers = (archive.fileno(), contents.fileno())
        value, fds = await in_child(
            self._loop,
            lambda report: upload.take_in(*numbers, body.name, report),
            keep=numbers,
            seconds=UNPACK_SECONDS,
            report=tell,
        )
        try:
            taken = upload.read_answer(value)
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

    async def _pack(self, job: Job, body: Publish, sources: Sources, lock: str, tell: Tell) -> Fd:
        site = ""
        if lock:
            began = self._loop.time()
            site = digest(body.owner, lock, abi_of_this_node())
            text = await self._resolver.install(job.name, digest(body.owner), site, lock.encode())
            tell("install", f"{lock.count('==')} packages, {text}", (self._loop.time() - began) * 1000)
        began = self._loop.time()
        byte_code = sources.upload.manifest.runtime != "static"
        index, contents = sources.index.dup(), job.read_only("contents")
        text, pack = await self._resolver.pack(job.name, site, index, contents, byte_code=byte_code)
        tell("pack", text, (self._loop.time() - began) * 1000)
        return pack


def abi_of_this_node() -> str:
    """The ABI of the interpreter that releases run on, as in "cpython-313-x86_64-linux-gnu"."""
    return str(sysconfig.get_config_var("SOABI"))
