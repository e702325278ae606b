"""`fildes rollback NAME`: an earlier release becomes the current one; it is checked and warmed first."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of
from fildes.cli.publish import Watch

HELP = "go back to an earlier release: fildes rollback guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument(
        "--to", metavar="RELEASE", help="which one (default: the one before; see: fildes releases NAME)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    watch = Watch(quiet=args.json)
    with Client(state_of(args)) as node:
        value, _ = node.ask("rollback", {"service": args.service, "release": args.to}, note=watch.note)
    if args.json:
        _render.print_json(value)
    else:
        print(f"{value['service']}: release {value['release']} is the current one again")
        for url in value["urls"]:
            print(url)
        watch.replaced(value)
    return 0
