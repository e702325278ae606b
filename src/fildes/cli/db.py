"""`fildes db`: the databases that a service keeps. A backup is one SQLite file, made while the service writes on."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of
from fildes.kernel.fds import Fd

HELP = "list, back up and restore databases: fildes db backup guestbook db guests.sqlite3"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("list", "backup", "restore"))
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("grant", metavar="GRANT", nargs="?", help="the name behind [grants.…] in its manifest")
    parser.add_argument("file", metavar="FILE", nargs="?")
    parser.add_argument("--owner", metavar="WHO", help="whose it was, where several had one of that name")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    if args.what == "list":
        if args.grant is not None:
            raise Trouble("write: fildes db list NAME")
        return _list(args)
    if args.grant is None or args.file is None:
        raise Trouble(f"write: fildes db {args.what} NAME GRANT FILE; its grants are shown by: fildes db list NAME")
    return _backup(args) if args.what == "backup" else _restore(args)


def _list(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("db-list", {"service": args.service, "owner": args.owner})
    if args.json:
        _render.print_json(value)
    elif not value["items"]:
        print(f'{args.service} keeps nothing; a database is granted by the lines [grants.db] and kind = "sqlite"')
    else:
        rows = [[item["grant"], item["kind"], _render.size(item["size"])] for item in value["items"]]
        print(_render.table(["GRANT", "KIND", "ON DISK"], rows))
    return 0


def _backup(args: argparse.Namespace) -> int:
    """The file is there whole, or as it was before."""
    directory = os.path.dirname(os.path.abspath(args.file))
    try:
        number, name = tempfile.mkstemp(prefix=f".{os.path.basename(args.file)}.", dir=directory)
        os.close(number)
        partial = Fd.open(name, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        raise Trouble(f"{args.file} can't be written: {error.strerror}; name a file in a directory of yours") from error
    try:
        with Client(state_of(args)) as node:
            asked = {"service": args.service, "grant": args.grant, "owner": args.owner}
            value, _ = node.ask("db-backup", asked, [partial])
        os.replace(name, args.file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    finally:
        partial.close()
    if args.json:
        _render.print_json(value)
    else:
        print(f"{args.service}: {args.grant} is copied to {args.file}, {_render.size(value['size'])}")
    return 0


def _restore(args: argparse.Namespace) -> int:
    try:
        given = Fd.open(args.file, os.O_RDONLY)
    except OSError as error:
        raise Trouble(f"{args.file} can't be read: {error.strerror}") from error
    with Client(state_of(args)) as node:
        value, _ = node.ask("db-restore", {"service": args.service, "grant": args.grant}, [given])
    if args.json:
        _render.print_json(value)
    else:
        print(f"{args.service}: {args.grant} is what {args.file} was, {_render.size(value['size'])}")
    return 0
