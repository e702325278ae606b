"""`fildes stop NAME`: its processes end, until the next request; those of a `service` until `fildes start NAME`."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "end a service's instances until they are needed or started: fildes stop guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("stop", {"service": args.service})
    if args.json:
        _render.print_json(value)
    else:
        again = (
            f"it runs again after: fildes start {args.service}"
            if value["stays"]
            else "the next request starts it again"
        )
        print(f"{args.service}: {_render.count(value['instances'], 'instance')} ended; {again}")
    return 0
