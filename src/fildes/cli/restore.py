"""`fildes restore`: a state directory out of a backup. All of it, or nothing."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fildes.cli import _archive, _planting
from fildes.cli._shared import Trouble, state_of
from fildes.kernel.fds import Fd

_FIRST_UID = 1000  # of services, above those of daemons
HELP = "make a state directory out of a backup: fildes restore node.backup --key node.key --state DIR"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what `fildes backup` wrote; '-' is standard input")
    parser.add_argument("--key", metavar="KEYFILE", help="the key that its secrets were sealed with")


def run(args: argparse.Namespace) -> int:
    state = Path(state_of(args))
    key = _archive.read_key(args.key) if args.key else None
    if state.exists() and (not state.is_dir() or any(state.iterdir())):
        raise Trouble(f"--state {state}: there is something already; name a directory that is empty or not there yet")
    try:
        with _opened(args.file) as file, _folder(state) as folder:
            left_out, said = _restore(file, args.file, folder, key)
            if state.exists():
                state.rmdir()
            os.rename(folder, state)
    except sqlite3.Error as error:
        raise Trouble(f"{args.file}: its catalogue can't be used: {error}; nothing was restored") from error
    except OSError as error:
        raise Trouble(f"{error.filename or state}: {error.strerror}; nothing was restored") from error
    for sentence in said:
        print(sentence)
    print(f"{state}: restored; start it: fildes up --state {state}")
    if left_out:
        print("its secrets stayed sealed: restore with --key, or set them again: fildes secret set SERVICE NAME")
    return 0


def _restore(file: IO[bytes], name: str, folder: Path, key: bytes | None) -> tuple[bool, list[str]]:
    """Fill `folder`. Whether its secrets were left out, and what else is to be said."""
    from fildes.init import ground, layout, world

    archive = _archive.Reader(file, name)
    version = archive.header["state"]
    if version > layout.VERSION:
        raise Trouble(
            f"{name}: it was taken from a newer fildes ({archive.header.get('fildes')}, state version {version}; this "
            f"one knows {layout.VERSION}): install that one, and restore with it; nothing was restored"
        )
    secrets = archive.extract(folder)
    if not (folder / _archive.DATABASE).exists():
        raise Trouble(f"{name}: it has no catalogue; nothing was restored")
    catalogue = folder / "catalogue"
    catalogue.mkdir(mode=0o700)
    for part in (_archive.DATABASE, "objects"):
        if (folder / part).exists():
            (folder / part).rename(catalogue / part)
    for path in (catalogue / "objects").glob("*"):
        path.chmod(0o400)
    opened = _archive.unseal(key, secrets, archive.raw_header) if key is not None and secrets else []
    with contextlib.closing(sqlite3.connect(catalogue / _archive.DATABASE)) as database, database:
        _vet(database, name)
        database.executemany("INSERT OR REPLACE INTO secret VALUES (?, ?, ?, ?)", opened)
        base = world.own_uids()
        shift = (base or 0) - archive.header["uid_base"]
        if shift:  # this machine counts its uids from elsewhere
            for table in ("uid", "release"):
                database.execute(f"UPDATE {table} SET uid = -1 - uid")  # none may be taken twice on the way
                database.execute(f"UPDATE {table} SET uid = -1 - uid + ?", (shift,))
        uids = _uids(database, name, base or 0)
    try:
        said = _planting.plant(folder / "data", None if base is None else uids)
    except Trouble as trouble:
        raise Trouble(f"{name}: {trouble}; nothing was restored") from trouble
    with Fd.open(str(folder), os.O_RDONLY | os.O_DIRECTORY) as directory:
        ground.write(directory.fileno(), "VERSION", f"{version}\n")
    return bool(secrets) and key is None, said


def _vet(database: sqlite3.Connection, name: str) -> None:
    """Raises Trouble unless its tables are those that we make: a trigger or a view is a program, which would run here,
    perhaps as root, and again in the catalogue."""
    from fildes.catalogue import schema

    database.execute("PRAGMA trusted_schema = OFF")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as ours:
        schema.migrate(ours, schema.STEPS[:version] if version > 0 else ())
        if version > len(schema.STEPS) or _tables(database) != _tables(ours):
            raise Trouble(f"{name}: its catalogue is not one that this fildes made; nothing was restored")
    (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise Trouble(f"{name}: its catalogue is damaged: {verdict[:80]}; nothing was restored")


def _tables(database: sqlite3.Connection) -> list[tuple[str, str, str, str | None]]:
    return sorted(database.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema").fetchall())


def _uids(database: sqlite3.Connection, name: str, base: int) -> dict[tuple[str, str], int]:
    """Whose the files of services are. None is the machine's own. Raises Trouble."""
    uids = {(owner, service): uid for owner, service, uid in database.execute("SELECT owner, service, uid FROM uid")}
    given = [uid for (uid,) in database.execute("SELECT uid FROM release")]
    if any(
        not isinstance(uid, int) or not base + _FIRST_UID <= uid < (1 << 32) - 1 for uid in [*uids.values(), *given]
    ):
        raise Trouble(f"{name}: its services are other users of this machine; nothing was restored")
    return uids


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    with open(name, "rb") as file:
        yield file


@contextmanager
def _folder(state: Path) -> Iterator[Path]:
    """Beside the state directory, so that one rename makes it that."""
    state.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{state.name}.", dir=state.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
