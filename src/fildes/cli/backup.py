"""`fildes backup`: everything of a node in one file, while it runs."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fildes import __version__
from fildes.cli import _archive
from fildes.cli._client import Client, Refused
from fildes.cli._shared import Trouble, state_of
from fildes.kernel import memfd
from fildes.kernel.fds import Fd

HELP = "write the whole node into one file while it runs; secrets only with --key"
_TRIES = 3  # something may be removed while it is read


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="where to write it; '-' is standard output")
    parser.add_argument("--key", metavar="KEYFILE", help="take the secrets along, sealed with this key")
    parser.add_argument("--new-key", metavar="KEYFILE", help="make a key, and nothing else; keep it elsewhere")


def run(args: argparse.Namespace) -> int:
    if args.new_key:
        _archive.new_key(args.new_key)
        print(f"{args.new_key}: without this file the secrets of your backups can't be had back; keep it elsewhere")
        return 0
    if not args.file:
        raise Trouble("where to? fildes backup FILE")
    key = _archive.read_key(args.key) if args.key else None
    state = Path(state_of(args))
    with Client(str(state)) as node:
        for left in reversed(range(_TRIES)):
            try:
                with _target(args.file) as file:
                    size = _write(node, state, file, key)
                break
            except FileNotFoundError as error:
                if not left or args.file == "-":
                    raise Trouble(f"{error.filename}: was removed while it was read; take the backup again") from error
            except OSError as error:
                raise Trouble(f"{error.filename or args.file}: {error.strerror}; no backup was written") from error
    without = "" if key else ", without secrets (--key takes them along)"
    print(f"{args.file}: {size:,} bytes{without}", file=sys.stderr)
    return 0


def _write(node: Client, state: Path, file: IO[bytes], key: bytes | None) -> int:
    value, fds = node.ask("copy", {"secrets": key is not None})
    with contextlib.ExitStack() as stack:
        for fd in fds:
            stack.enter_context(fd)
        database = memfd.read_sealed(fds[0].fileno())
        header = {
            "fildes": __version__,
            "state": int((state / "VERSION").read_text()),
            "uid_base": value["uid_base"],
            "created": int(time.time()),
        }
        archive = _archive.Writer(file, header)
        _add(archive, _archive.DATABASE, database)
        for digest in _objects(database):
            with open(state / "catalogue" / "objects" / digest, "rb") as source:
                archive.add(f"objects/{digest}", source, os.fstat(source.fileno()).st_size)
        _add_data(node, state / "data", archive)
        if key is not None:
            _add(archive, _archive.SECRETS, _archive.seal(key, _secrets(fds[1]), archive.header))
        archive.end()
    return archive.size


def _add(archive: _archive.Writer, name: str, data: bytes) -> None:
    archive.add(name, io.BytesIO(data), len(data))


def _objects(database: bytes) -> list[str]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(database)
        return [row[0] for row in connection.execute("SELECT hash FROM object ORDER BY hash")]


def _add_data(node: Client, data: Path, archive: _archive.Writer) -> None:
    """Every database as it is at one moment, copied by who may read it."""
    for folder in sorted(data.glob("*/*/*")):
        owner, service, grant = folder.parts[-3:]
        name = f"data/{owner}/{service}/{grant}"
        if (folder / "db").exists():
            with tempfile.TemporaryFile() as copy:
                question = {"owner": owner, "service": service, "grant": grant}
                try:
                    node.ask("copy-data", question, [Fd(os.dup(copy.fileno()))])
                except Refused as refused:
                    if refused.code == "not-found":  # nothing was written into it yet, or it is gone
                        continue
                    raise
                copy.seek(0)
                archive.add(f"{name}/db", copy, os.fstat(copy.fileno()).st_size)


def _secrets(sealed: Fd) -> list[list[str]]:
    import msgspec

    rows = msgspec.msgpack.decode(memfd.read_sealed(sealed.fileno()), type=list[tuple[str, str, str, bytes]])
    return [[owner, service, name, value.hex()] for owner, service, name, value in rows]


@contextmanager
def _target(name: str) -> Iterator[IO[bytes]]:
    """A file that is there, under its name, only when all of it was written."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
