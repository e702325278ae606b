"""`fildes stop NAME`: its processes end; the next request starts it again."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "end a service's instances until the next request: fildes stop guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("stop", {"service": args.service})
    if args.json:
        _render.print_json(value)
    else:
        print(f"{args.service}: {value['instances']} instances ended; the next request starts it again")
    return 0
