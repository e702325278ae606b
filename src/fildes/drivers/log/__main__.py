"""log: keeps what programs write, and tells it.

In: its channel; fds["state"], the directory of its files; from init's store the pipes of programs, and of readers who
follow a log. Settings used: log = {"files": segments a service, "bytes": size of one}.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from fildes.capabilities.connect.grant import SERVICE
from fildes.capabilities.log.driver import open_log
from fildes.daemon.peer import Asked, Empty, Peer, Refused
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Deposit, Store
from fildes.drivers.log.files import Files, Place
from fildes.drivers.log.lines import SYSTEM, stamp, stamped
from fildes.drivers.log.reader import Reader
from fildes.drivers.log.source import Copier, Source
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop
from fildes.wire import log as wire

_READERS: Final = 128
_READERS_OF_OWNERS: Final = 96  # of them, so that operators can always read
_READERS_OF_ONE: Final = 16  # owner
_MOST_LINES: Final = 1_000_000


class _Pipe(msgspec.Struct, array_like=True):
    """Beside a program's pipe in the store: whose it is, and the bound of its log in bytes (0: the usual one)."""

    service: str
    release: str
    size: int = 0


class _Following(msgspec.Struct, array_like=True):
    """Beside a reader's pipe in the store: how far it has been told."""

    service: str
    segment: int
    offset: int
    owner: str | None = None


class Log:
    """Owns the files, the programs' pipes and the readers'."""

    def __init__(self, loop: Loop, store: Store, files: Files) -> None:
        self._loop, self._store, self._files = loop, store, files
        self._copier = Copier()
        self._sources: dict[str, Source] = {}
        self._readers: dict[str, Reader] = {}
        self._lost: dict[str, int] = {}  # bytes that the disk did not take, by service
        self._last = 0

    # — what is asked —

    async def open(self, asked: Asked[wire.Open]) -> tuple[Empty, list[Fd]]:
        service, release, size = asked.body.service, asked.body.release, asked.body.size
        self._check(service)
        reader, writer = open_log()
        key = self._key("pipe")
        self._store.deposit(key, msgspec.msgpack.encode(_Pipe(service, release, size)), [reader])
        if size:
            self._files.bound(service, size)
        self._listen(key, service, release, reader)
        return Empty(), [writer]

    async def append(self, asked: Asked[wire.Append]) -> None:
        self.told(asked)

    def told(self, asked: Asked[wire.Append]) -> None:
        self._check(asked.body.service)
        self._write(asked.body.service, SYSTEM, asked.body.text.encode(errors="replace"))

    async def read(self, asked: Asked[wire.Read]) -> tuple[Empty, list[Fd]]:
        service = asked.body.service
        self._check(service)
        owner = asked.body.owner
        most = _READERS if owner is None else _READERS_OF_OWNERS
        if len(self._readers) >= most:
            raise Refused("busy", f"{most} readers are being told logs already; try again later")
        if owner is not None and sum(reader.owner == owner for reader in self._readers.values()) >= _READERS_OF_ONE:
            raise Refused("busy", f"{_READERS_OF_ONE} readers of yours are being told logs already; close one first")
        if not asked.body.known and service not in self._files.services():
            raise Refused("not-found", f"there is no service {service!r}; those there are: fildes ps")
        start = self._files.tail(service, min(max(0, asked.body.lines), _MOST_LINES))
        ours_reads, ours = open_log()
        until = None if asked.body.follow else self._files.end(service)
        self._tell(self._key("reader"), service, owner, ours, start, until)
        return Empty(), [ours_reads]

    async def forget(self, asked: Asked[wire.Forget]) -> None:
        self._check(asked.body.service)
        for key, reader in list(self._readers.items()):
            if reader.service == asked.body.service:
                reader.close()
                self._reader_ended(key)
        self._files.forget(asked.body.service)

    # — pipes —

    def restore(self, deposits: list[Deposit]) -> None:
        """Take over what a killed driver left. Consumes the deposits."""
        for key, blob, fds in deposits:
            self._last = max(self._last, int(key.rpartition(".")[2]))
            if key.startswith("pipe."):
                mine = msgspec.msgpack.decode(blob, type=_Pipe)
                if mine.size:
                    self._files.bound(mine.service, mine.size)
                self._listen(key, mine.service, mine.release, Fd(fds[0].take()))
            else:
                at = msgspec.msgpack.decode(blob, type=_Following)
                self._tell(key, at.service, at.owner, Fd(fds[0].take()), Place(at.segment, at.offset), None)
            close_all(fds)

    def _listen(self, key: str, service: str, release: str, fd: Fd) -> None:
        who = release.encode() or b"-"
        self._sources[key] = Source(
            self._loop,
            fd,
            self._copier,
            on_lines=lambda data: self._write(service, who, data),
            on_end=lambda: self._source_ended(key),
        )

    def _source_ended(self, key: str) -> None:
        del self._sources[key]
        self._store.drop(key)

    def _tell(self, key: str, service: str, owner: str | None, pipe: Fd, start: Place, until: Place | None) -> None:
        def moved(place: Place) -> None:
            if until is None:
                self._store.deposit(key, msgspec.msgpack.encode(_Following(service, *place, owner)), [pipe])

        moved(start)
        self._readers[key] = Reader(
            self._loop,
            self._files,
            service,
            owner,
            pipe,
            start,
            until,
            on_moved=moved,
            on_end=lambda: self._reader_ended(key),
        )

    def _reader_ended(self, key: str) -> None:
        if self._readers.pop(key, None) is not None:
            self._store.drop(key)

    # — lines —

    def _write(self, service: str, who: bytes, data: bytes) -> int:
        """Returns how many bytes were written, or would have been."""
        now = time.time()
        lines = stamped(data, stamp(now, who))
        lost = self._lost.get(service, 0)
        if lost:
            note = f"{lost} bytes of this log were lost: the disk did not take them".encode()
            lines = stamped(note, stamp(now, SYSTEM)) + lines
        try:
            self._files.append(service, lines)
        except OSError as error:
            # The program goes on: a full disk must not stop those who only print.
            if not lost:
                self._loop.on_error(OSError(error.errno, f"the log of {service} can't be written: {error.strerror}"))
            self._lost[service] = lost + len(data)
            return len(lines)
        self._lost.pop(service, None)
        for reader in self._readers.values():
            if reader.service == service:
                reader.wake()
        return len(lines)

    def _key(self, kind: str) -> str:
        self._last += 1
        return f"{kind}.{self._last}"

    @staticmethod
    def _check(service: str) -> None:
        if not SERVICE.fullmatch(service):
            raise Refused("malformed", f"{service[:64]!r} is not a service's name")

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        for reader in self._readers.values():
            reader.close()
        self._copier.close()
        self._files.close()


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    store = Store(loop, inheritance.store)
    # Before anybody is answered: new pipes must not take the places of those that are kept.
    deposits = loop.run_until(loop.spawn(store.collect()))
    wanted: dict[str, Any] = inheritance.settings.get("log", {})
    files = Files(inheritance.fds["state"], int(wanted.get("files", 4)), int(wanted.get("bytes", 1 << 20)))
    log = Log(loop, store, files)
    log.restore(deposits)
    peer = Peer(loop, inheritance.channel)
    peer.on("log.open", wire.Open, log.open)
    peer.on("log.append", wire.Append, log.append)
    peer.on_event("log.append", wire.Append, log.told)
    peer.on("log.read", wire.Read, log.read)
    peer.on("log.forget", wire.Forget, log.forget)
    confine("log")
    store.ready()
    loop.run()
