"""`fildes rm NAME`: the service, its releases, hosts, secrets and log are gone; with --data what it kept, too."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "remove a service with all its releases: fildes rm guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("--data", action="store_true", help="what it keeps too: databases, trees; for good")
    parser.add_argument("--owner", metavar="WHO", help="whose it was, where several had one of that name")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("rm", {"service": args.service, "data": args.data, "owner": args.owner})
    if args.json:
        _render.print_json(value)
    else:
        print(
            f"{value['service']}: removed, with {_render.count(value['releases'], 'release')}"
            + (" and its data" if args.data else "")
        )
        if value["kept"]:
            print(f"what it kept is still there, for the next of that name; for good: fildes rm {args.service} --data")
    return 0
