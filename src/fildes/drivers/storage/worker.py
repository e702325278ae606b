"""Reading what programs wrote into their databases: in a child that holds nothing but those files.

A database is input of a tenant's making, and SQLite is large. So whoever parses one here is confined as an instance
is: the serve filter over descriptors that it was given, found by their paths by way of the trap. Taken over, it can
spoil the two files that it has, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fildes.capabilities.sqlite.grant import SUFFIXES
from fildes.kernel import process, seccomp
from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN, Loop, Promise
from fildes.runtime import trap
from fildes.runtime.kit import Kit

LIMIT: Final = 1500.0  # seconds
HERE: Final = "/kept/database"  # paths of the worker's own; there are no others
OTHER: Final = "/kept/other"
_BUSY: Final = 20.0  # seconds
_WAL: Final = 2  # of a database's header, bytes 18 and 19 (sqlite.org/fileformat)

Files = Mapping[str, tuple[int, bool]]  # path → descriptor (borrowed), writable


class Failed(Exception):
    """The work could not be done; the text says why."""


def database(path: str, fds: Sequence[Fd], *, writable: bool) -> dict[str, tuple[int, bool]]:
    """The files of a database (borrowed) under `path`."""
    return {path + suffix: (fd.fileno(), writable) for suffix, fd in zip(SUFFIXES, fds, strict=True)}


async def run(loop: Loop, program: bytes, files: Files, work: Callable[[], Any]) -> Any:
    """What `work()` returns, JSON, run in a child under the filter `program`. Raises Failed."""
    reader, writer = (Fd(number) for number in os.pipe2(os.O_CLOEXEC))
    pid = os.fork()
    if pid == 0:
        _child(writer.fileno(), program, files, work)
    writer.close()
    ended: Promise[None] = Promise(loop)
    with reader, process.pidfd_open(pid) as pidfd:
        loop.watch(pidfd.fileno(), EPOLLIN, lambda _: ended.resolve(None))
        timer = loop.call_later(LIMIT, lambda: process.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL))
        try:
            await ended
        finally:
            timer.cancel()
            loop.unwatch(pidfd.fileno())
        _, status = os.waitpid(pid, 0)
        try:
            said = json.loads(os.read(reader.fileno(), 4096) or b"{}")
        except ValueError:
            said = {}
    if not isinstance(said, dict) or "error" in said or "value" not in said:
        error = said.get("error") if isinstance(said, dict) else None
        raise Failed(error if isinstance(error, str) else f"whoever did it ended ({status})")
    return said["value"]


def _child(writer: int, program: bytes, files: Files, work: Callable[[], Any]) -> None:
    """Never returns."""
    said: dict[str, Any] = {"error": "it did not begin"}
    try:
        signal.set_wakeup_fd(-1)
        process.set_parent_death_signal(signal.SIGKILL)
        process.close_all_but({0, 1, 2, writer, *(fd for fd, _ in files.values())})
        for path, (fd, writable) in files.items():
            trap.keep(path, fd, writable=writable, passing=path.endswith("-shm"))
        trap.activate(Kit(-1, -1, -1))
        seccomp.install(program)
        said = {"value": work()}
    except BaseException as error:
        said = {"error": f"{error}"[:2000] or type(error).__name__}
    finally:
        with contextlib.suppress(BaseException):
            os.write(writer, json.dumps(said).encode()[:4096])
        os._exit(0)


def _open(path: str, words: str = "") -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}{words}", uri=True, timeout=_BUSY)
    connection.isolation_level = None
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, patience: int) -> None:
    """Raises Failed when one of them stays locked: Connection.backup by itself tries again for ever, and a program
    may lock its database for as long as it likes. `patience`: tries after the first, a quarter of a second apart."""
    left = patience

    def watch(status: int, _remaining: int, _total: int) -> None:
        nonlocal left
        if status & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            left -= 1
            if left < 0:
                raise Failed("it is locked all the time: stop the service, and try again")

    source.backup(target, progress=watch)


def backup() -> None:
    """The database HERE, as it is at one moment, into the file OTHER. Writers wait, or with a WAL go on."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(OTHER, 0)  # what a killed forerunner wrote of it
    with contextlib.closing(_open(HERE)) as source, contextlib.closing(_open(OTHER)) as copy:
        copy.execute("PRAGMA journal_mode = OFF")
        _copy(source, copy, patience=0)  # each try waits for _BUSY already
    with open(OTHER, "r+b", buffering=0) as file:
        # What it was copied from may have had a log beside it; this has none, and shall be one file.
        if os.pread(file.fileno(), 2, 18) == bytes([_WAL, _WAL]):
            os.pwrite(file.fileno(), b"\x01\x01", 18)
        os.fsync(file.fileno())


def check() -> None:
    """Is the file OTHER a sound database? Raises sqlite3.Error, Failed."""
    with contextlib.closing(_open(OTHER, "?mode=ro&immutable=1")) as given:
        (verdict,) = given.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise Failed(f"it is damaged: {verdict}")


def restore(most: int = 0) -> None:
    """The database HERE becomes the file OTHER, in one transaction of SQLite's: killed at any time, it is either.
    `most`: bytes that it may have then; 0: as many as there are.

    Who has it open sees the change. What can't be opened as a database is thrown away first.
    """
    check()
    try:
        _restore(most)
    except sqlite3.OperationalError:  # it is locked, or there is no room
        raise
    except sqlite3.DatabaseError:
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(HERE + suffix)
        _restore(most)


def _restore(most: int) -> None:
    with contextlib.closing(_open(OTHER, "?mode=ro&immutable=1")) as given, contextlib.closing(_open(HERE)) as target:
        (mode,) = target.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":  # its pages could not change their size
            target.execute("PRAGMA journal_mode = DELETE")
        if most:  # looked at while it is written: who gave the file may write into it meanwhile
            (page,) = given.execute("PRAGMA page_size").fetchone()
            target.execute(f"PRAGMA max_page_count = {max(1, most // page)}")
        target.execute("BEGIN EXCLUSIVE")  # a backup would wait for ever where this says "locked"
        target.execute("ROLLBACK")
        _copy(given, target, patience=80)
        if mode == "wal":
            target.execute("PRAGMA journal_mode = WAL")
