"""`fildes backup`: everything of a node in one file, while it runs."""

from __future__ import annotations

import argparse
import contextlib
import errno
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
from fildes.cli import _archive, _planting, _tree_reading, _trees
from fildes.cli._client import Client, Refused
from fildes.cli._shared import Trouble, state_of
from fildes.kernel import memfd
from fildes.kernel.fds import Fd

HELP = "write the node into one file (secrets only with --key): fildes backup node.backup --key node.key"
_TRIES = 3  # something may be removed while it is read
_MOST = 2  # times the quota: so much may be in a tree, one after the other, while it is read

LeftOut = list[tuple[str, str]]  # what, and why


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
    with _client(state) as node:
        for left in reversed(range(_TRIES)):
            try:
                with _target(args.file) as file:
                    size, left_out = _write(node, state, file, key, _beside(args.file))
                break
            except FileNotFoundError as error:
                if not left or args.file == "-":
                    raise Trouble(f"{error.filename}: was removed while it was read; take the backup again") from error
            except OSError as error:
                raise Trouble(f"{error.filename or args.file}: {error.strerror}; no backup was written") from error
    without = "" if key else ", without secrets (--key takes them along)"
    print(f"{args.file}: {size:,} bytes{without}", file=sys.stderr)
    for name, why in left_out:
        print(f"NOT in it: {name}: {why}", file=sys.stderr)
    return 1 if left_out else 0


def _client(state: Path) -> Client:
    try:
        return Client(str(state))
    except Trouble as trouble:
        if not (state / "VERSION").exists():
            raise
        raise Trouble(
            f"{trouble}\nWhile it is down the state directory itself can be copied, which takes everything along, "
            f"the secrets too: cp -a --sparse=always {state} ELSEWHERE"
        ) from trouble


def _beside(target: str) -> str | None:
    """Where there is room for what has to be measured before it is written: where the backup goes."""
    return None if target == "-" else os.path.dirname(os.path.abspath(target))


def _write(node: Client, state: Path, file: IO[bytes], key: bytes | None, temporary: str | None) -> tuple[int, LeftOut]:
    """How many bytes it has, and what is not in it."""
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
        left_out = _add_data(node, state / "data", archive, _quotas(database), temporary)
        if key is not None:
            _add(archive, _archive.SECRETS, _archive.seal(key, _secrets(fds[1]), archive.header))
        archive.end()
    return archive.size, left_out


def _add(archive: _archive.Writer, name: str, data: bytes) -> None:
    archive.add(name, io.BytesIO(data), len(data))


def _objects(database: bytes) -> list[str]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(database)
        return [row[0] for row in connection.execute("SELECT hash FROM object ORDER BY hash")]


def _quotas(database: bytes) -> dict[tuple[str, str, str], int]:
    """What the manifests of current releases say of trees: (owner, service, grant) → bytes."""
    import msgspec

    from fildes.capabilities.files import grant as files

    found = {}
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(database)
        rows = connection.execute(
            "SELECT owner, service, manifest FROM release WHERE state = 'current' AND instr(manifest, ?)", (b"files",)
        )
        for owner, service, manifest in rows:
            for grant in msgspec.msgpack.decode(manifest).get("grants", ()):
                if grant["kind"] == files.KIND.name:
                    found[owner, service, grant["name"]] = files.quota_of(grant.get("options", {}))
    return found


def _add_data(
    node: Client,
    data: Path,
    archive: _archive.Writer,
    quotas: dict[tuple[str, str, str], int],
    temporary: str | None,
) -> LeftOut:
    """Every database as it is at one moment, copied by who may read it; every tree file by file. What one program does
    to its own keeps nobody else's from being saved."""
    left_out: LeftOut = []
    for shelf in _trees.shelves(data):
        with tempfile.TemporaryFile(dir=temporary) as copy:
            if "db" in shelf.names:
                if _copy_database(node, shelf, copy, left_out):
                    archive.add(f"data/{shelf.path}/db", copy, os.fstat(copy.fileno()).st_size)
            elif _copy_tree(shelf, quotas.get(shelf[:3], 0), copy, left_out):
                archive.add(f"data/{shelf.path}/{_planting.PACKED}", copy, os.fstat(copy.fileno()).st_size)
    return left_out


def _copy_database(node: Client, shelf: _trees.Shelf, copy: IO[bytes], left_out: LeftOut) -> bool:
    """Whether there is something in it."""
    question = {"owner": shelf.owner, "service": shelf.service, "grant": shelf.grant}
    try:
        node.ask("copy-data", question, [Fd(os.dup(copy.fileno()))])
    except Refused as refused:
        if refused.code == "not-found":  # nothing was written into it yet, or it is gone
            return False
        if refused.code != "state":  # the program locks it for ever, or it is no database any more
            raise
        left_out.append((shelf.path, str(refused)))
        return False
    copy.seek(0)
    return True


def _copy_tree(shelf: _trees.Shelf, promised: int, copy: IO[bytes], left_out: LeftOut) -> bool:
    """Whether there is one. `promised`: the quota, where no file system tells it."""
    try:
        with _trees.opened(shelf) as found:
            if found is None:
                return False
            top, quota = found
            packer = _tree_reading.Packer(copy, _MOST * quota or None)
            packer.pack(top, quota or promised)
    except FileNotFoundError:  # removed
        return False
    except _tree_reading.Crowded:
        text = "all of it: files were written anew faster than they could be read; take the backup again"
        left_out.append((shelf.path, text))
        return False
    if packer.left_out:
        left_out.append((shelf.path, f"{packer.left_out} of its files, such as {packer.example}"))
    copy.seek(0)
    return True


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
        try:  # a file without a name is gone with us, whoever kills us
            number = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            number = os.open(temporary, flags, 0o600)
        with open(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not temporary.exists():
                with Fd.open(str(path.parent), os.O_RDONLY | os.O_DIRECTORY) as folder:
                    os.link(f"/proc/self/fd/{number}", temporary.name, dst_dir_fd=folder.fileno())
        os.rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
