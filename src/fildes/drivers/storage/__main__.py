"""storage: databases and trees that last.

In: its channel; fds["data"], the directory of all that is kept. It opens files for others and never reads what is in
them: whoever does is a child without any other authority (worker.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from fildes.capabilities.files.driver import open_tree
from fildes.capabilities.sqlite import grant as sqlite
from fildes.capabilities.sqlite.driver import FILE, open_database
from fildes.daemon.peer import Asked, Peer, Refused
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.drivers.storage import worker
from fildes.drivers.storage.shelves import BadName, Full, Shelves
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop
from fildes.runtime import trap
from fildes.sandbox import profile
from fildes.wire import storage as wire
from fildes.wire.drivers import Open, Opened

AT_ONCE: Final = 2  # copies of one owner's databases

T = TypeVar("T")


class Storage:
    def __init__(self, loop: Loop, shelves: Shelves, program: bytes) -> None:
        self._loop, self._shelves, self._program = loop, shelves, program

    # — for programs —

    async def open(self, asked: Asked[Open]) -> tuple[Opened, list[Fd]]:
        grant = asked.body
        if grant.kind != sqlite.KIND.name:
            raise Refused("malformed", f"the storage driver opens sqlite, not {grant.kind!r}")
        writable = sqlite.writable(grant.options)
        service, name = sqlite.source_of(grant.name, grant.service, grant.options)
        if service == grant.service:
            # Made also for one who only reads: then it is an empty database, and no riddle.
            with self._shelves.make(grant.owner, service, name) as directory:
                made = open_database(directory.fileno(), writable=True)
                os.fsync(directory.fileno())
            if writable:
                return Opened(grant.kind), made
            close_all(made)
        try:
            with self._shelves.open(grant.owner, service, name) as directory:
                return Opened(grant.kind), open_database(directory.fileno(), writable=writable)
        except FileNotFoundError as error:
            text = (
                f"{service} has no database {name!r} yet: publish it and have it write first, or correct the line `of`"
            )
            raise Refused("not-found", text) from error

    async def tree(self, asked: Asked[wire.Tree]) -> tuple[wire.Placed, list[Fd]]:
        body = asked.body
        directory = self._shelves.make(body.owner, body.service, body.grant)
        try:
            tree, quota = open_tree(directory.fileno(), body.quota, image=body.image)
        except BaseException:
            directory.close()
            raise
        return wire.Placed(quota > 0, quota), [directory, tree]

    # — for operators —

    async def look(self, asked: Asked[wire.List]) -> wire.Listed:
        found = self._shelves.look(asked.body.owner, asked.body.service)
        return wire.Listed([wire.Item(*shelf) for shelf in found])

    async def kept(self, asked: Asked[wire.AskKept]) -> tuple[wire.KeptCount, list[Fd]]:
        found = self._shelves.all(asked.body.owner, asked.body.service)
        kept = [
            wire.Kept(owner, service, [shelf.grant for shelf in shelves], sum(sizes), sizes)
            for owner, service, shelves in found
            for sizes in [[shelf.size for shelf in shelves]]
        ]
        return wire.KeptCount(len(kept)), [memfd.sealed("kept", msgspec.msgpack.encode(kept))]

    async def backup(self, asked: Asked[wire.Backup]) -> wire.Copied:
        [into] = asked.fds
        fds = self._database(asked.body)
        what = f"{asked.body.grant} of {asked.body.service}"
        try:
            if not os.fstat(fds[0].fileno()).st_size and not os.fstat(fds[2].fileno()).st_size:
                raise Refused("not-found", f"nothing was written into {what} yet")
            files = worker.database(worker.HERE, fds, writable=True) | {worker.OTHER: (into.fileno(), True)}
            await worker.run(self._loop, self._program, files, worker.backup)
            return wire.Copied(os.fstat(into.fileno()).st_size)
        except worker.Failed as failed:
            raise Refused(
                "state", f"{asked.body.grant} of {asked.body.service} could not be copied: {failed}"
            ) from failed
        finally:
            close_all(fds)

    async def restore(self, asked: Asked[wire.Restore]) -> wire.Copied:
        [given] = asked.fds
        fds = self._database(asked.body)
        what = f"{asked.body.grant} of {asked.body.service}"
        try:
            if not os.fstat(given.fileno()).st_size:
                raise Refused("bundle", "the file is empty: it is no database")
            most, size = asked.body.most, os.fstat(given.fileno()).st_size
            if most and size > most:
                raise Refused("quota", f"the file has {size:,} bytes, and {what} may have {most:,}: see its quota")
            try:
                check = {worker.OTHER: (given.fileno(), False)}
                await worker.run(self._loop, self._program, check, worker.check)
            except worker.Failed as failed:
                raise Refused("bundle", f"the file is not a sound database: {failed}; nothing was changed") from failed
            files = worker.database(worker.HERE, fds, writable=True) | check
            await worker.run(self._loop, self._program, files, lambda: worker.restore(most))
            return wire.Copied(os.fstat(fds[0].fileno()).st_size)
        except worker.Failed as failed:
            raise Refused("state", f"{what} could not be restored: {failed}; it is as it was") from failed
        finally:
            close_all(fds)

    async def remove(self, asked: Asked[wire.Remove]) -> wire.Removed:
        return wire.Removed(self._shelves.remove(asked.body.owner, asked.body.service))

    def _database(self, of: wire.Backup | wire.Restore) -> list[Fd]:
        try:
            with self._shelves.open(of.owner, of.service, of.grant) as directory:
                os.stat(FILE, dir_fd=directory.fileno())  # nothing is made in the directory of a tree
                return open_database(directory.fileno(), writable=True)
        except FileNotFoundError as error:
            there = ", ".join(shelf.grant for shelf in self._shelves.look(of.owner, of.service)) or "none"
            text = f"{of.service} has no database under the grant {of.grant!r}; those there are: {there}"
            raise Refused("not-found", text) from error


def _guarded(handler: Callable[[Asked[T]], Awaitable[Any]], fds: int = 0) -> Callable[[Asked[T]], Awaitable[Any]]:
    """What the disk or a name did, as a refusal."""

    async def answer(asked: Asked[T]) -> Any:
        if len(asked.fds) != fds:
            raise Refused("malformed", f"expected {fds} descriptors with this question, got {len(asked.fds)}")
        try:
            return await handler(asked)
        except BadName as error:
            raise Refused("malformed", str(error)) from error
        except Full as error:
            raise Refused("quota", str(error)) from error
        except OSError as error:
            raise Refused("disk-full", f"the files could not be reached: {error}; see `fildes doctor`") from error

    return answer


def _in_turn(handler: Callable[[Asked[T]], Awaitable[Any]]) -> Callable[[Asked[T]], Awaitable[Any]]:
    """Each of these is a child for a while: an owner has some of them at once, and no more."""
    working: Counter[str] = Counter()

    async def answer(asked: Asked[T]) -> Any:
        owner = asked.body.owner  # type: ignore[attr-defined]
        if working[owner] >= AT_ONCE:
            raise Refused(
                "busy", f"{AT_ONCE} databases of {owner} are being copied already; ask again when that is done"
            )
        working[owner] += 1
        try:
            return await handler(asked)
        finally:
            working[owner] -= 1

    return answer


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    store = Store(loop, inheritance.store)
    trap.prepare(())
    program = profile.compile(profile.load("serve-sqlite"))
    storage = Storage(loop, Shelves(inheritance.fds["data"]), program)
    peer = Peer(loop, inheritance.channel)
    peer.on("storage.open", Open, _guarded(storage.open))
    peer.on("storage.tree", wire.Tree, _guarded(storage.tree))
    peer.on("storage.list", wire.List, _guarded(storage.look))
    peer.on("storage.kept", wire.AskKept, _guarded(storage.kept))
    peer.on("storage.backup", wire.Backup, _guarded(_in_turn(storage.backup), 1))
    peer.on("storage.restore", wire.Restore, _guarded(_in_turn(storage.restore), 1))
    peer.on("storage.remove", wire.Remove, _guarded(storage.remove))
    confine("storage")
    store.ready()
    loop.run()
