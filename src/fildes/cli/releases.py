"""`fildes releases NAME`: what was published, newest first."""

from __future__ import annotations

import argparse
import time

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "list a service's releases: fildes releases guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("releases", {"service": args.service})
    if args.json:
        _render.print_json(value)
        return 0
    now = time.time()
    rows = [
        [
            one["release"],
            one["state"],
            f"{_render.span(now - one['created'])} ago",
            _render.size(one["size"]),
            one["abi"],
        ]
        for one in value["releases"]
    ]
    print(_render.table(["RELEASE", "STATE", "PUBLISHED", "SIZE", "ABI"], rows))
    return 0
