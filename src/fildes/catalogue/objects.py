"""Bundles and packs by their content: objects/<sha256 in hex>, read-only, never changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from fildes.catalogue import spare
from fildes.catalogue.faults import NoSpace, translated
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop, Promise

CHUNK: Final = 1 << 20
# Dirty pages are written out as we go: one fsync of half a gigabyte would keep every other asker waiting.
SYNC_EVERY: Final = 32 << 20
# Left free on the file system, so that `fildes rm` can still write its transaction.
RESERVE: Final = 4 << 20


class NotTaken(Exception):
    """What was sent cannot be stored; the sentence says why."""


class Objects:
    """Owns the directory descriptors beneath `state` (borrowed). One process at a time may use a directory.

    What is `pinned` survives `discard`: between the rename and the row that speaks of it.
    """

    def __init__(self, loop: Loop, state: int) -> None:
        self.loop = loop
        self._state = state
        with translated():
            self._objects = _directory(state, "objects")
            self._tmp = _directory(state, "tmp")
        self._pins: Counter[str] = Counter()
        self._count = 0

    def close(self) -> None:
        self._objects.close()
        self._tmp.close()

    @contextmanager
    def pins(self, needed: Callable[[str], bool]) -> Iterator[Callable[[str], None]]:
        """A function that pins a hash until the block ends; then what is not `needed` is discarded."""
        mine: list[str] = []

        def pin(digest: str) -> None:
            mine.append(digest)
            self._pins[digest] += 1

        try:
            yield pin
        finally:
            self._pins.subtract(mine)
            self._pins += Counter()  # forgets those at zero
            self.discard([digest for digest in mine if not needed(digest)])

    async def store(self, source: int, limit: int) -> tuple[str, int]:
        """Copy the regular file `source` (borrowed); returns its sha256 and size. It is in objects/, synced.

        The sender may change it while it is read: what is stored is what was hashed.
        Raises NotTaken, NoSpace, BadState.
        """
        size = _size(source, limit)
        with translated():
            free = os.fstatvfs(self._state)
        room = free.f_bavail * free.f_frsize - RESERVE
        if room < size:
            raise NoSpace(f"{size:,} bytes are to be stored, and there is room for {max(0, room):,}")
        self._count += 1
        name = f"{os.getpid()}.{self._count}"
        try:
            with translated():
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with Fd.open(name, flags, 0o400, dir_fd=self._tmp.fileno()) as target:
                    digest = await self._copy(source, size, target.fileno())
                    os.fsync(target.fileno())
                os.rename(name, digest, src_dir_fd=self._tmp.fileno(), dst_dir_fd=self._objects.fileno())
                os.fsync(self._objects.fileno())
        except BaseException:
            self._unlink(self._tmp, name)
            raise
        return digest, size

    async def hash(self, source: int, limit: int) -> tuple[str, int]:
        """What `store` would answer, without storing anything."""
        size = _size(source, limit)
        return await self._copy(source, size, None), size

    async def _copy(self, source: int, size: int, target: int | None) -> str:
        digest = hashlib.sha256()
        offset = 0
        while offset < size:
            try:
                chunk = os.pread(source, min(CHUNK, size - offset), offset)
            except OSError as error:
                raise NotTaken(f"the file sent cannot be read: {error.strerror}") from error
            if not chunk:
                raise NotTaken(f"the file sent became shorter while it was read: {offset} of {size} bytes")
            digest.update(chunk)
            offset += len(chunk)
            view = memoryview(chunk)
            while target is not None and view:
                view = view[os.write(target, view) :]
            if target is not None and offset % SYNC_EVERY == 0:
                os.fdatasync(target)
            if offset < size:
                await self._others_turn()
        return digest.hexdigest()

    async def _others_turn(self) -> None:
        promise: Promise[None] = Promise(self.loop)
        self.loop.call_soon(lambda: promise.resolve(None))
        await promise

    def open(self, digest: str) -> Fd:
        """Read-only. Raises BadState if the file is not there."""
        with translated():
            return Fd.open(digest, os.O_RDONLY, dir_fd=self._objects.fileno())

    def has(self, digest: str) -> bool:
        try:
            os.stat(digest, dir_fd=self._objects.fileno(), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def discard(self, digests: Iterable[str]) -> None:
        """Unlink those that are not pinned. What cannot be unlinked now is swept at the next start."""
        for digest in digests:
            if not self._pins[digest]:
                self._unlink(self._objects, digest)

    def keep_spare(self) -> None:
        spare.keep(self._state)

    def spend_spare(self) -> None:
        spare.spend(self._state)

    def sweep(self, wanted: set[str]) -> list[str]:
        """Unlink all but `wanted`, and what an interrupted store left. Returns those of `wanted` that are missing."""
        for name in os.listdir(self._tmp.fileno()):
            self._unlink(self._tmp, name)
        self.keep_spare()
        present = set(os.listdir(self._objects.fileno()))
        for name in present - wanted:
            self._unlink(self._objects, name)
        return sorted(wanted - present)

    @staticmethod
    def _unlink(directory: Fd, name: str) -> None:
        try:
            os.unlink(name, dir_fd=directory.fileno())
        except FileNotFoundError:
            pass
        except OSError:
            return


def _directory(parent: int, name: str) -> Fd:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)
    except FileExistsError:
        pass
    return Fd.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _size(source: int, limit: int) -> int:
    found = os.fstat(source)
    if not stat.S_ISREG(found.st_mode):
        raise NotTaken("what was sent is not a regular file")
    if found.st_size > limit:
        raise NotTaken(f"{found.st_size:,} bytes; at most {limit:,} are taken")
    return found.st_size
