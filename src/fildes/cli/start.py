"""`fildes start NAME`: what was stopped, or halted for its crashes, runs again."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "run a service that was stopped or halted: fildes start guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("start", {"service": args.service})
    if args.json:
        _render.print_json(value)
    else:
        print(f"{args.service}: serves, {_render.count(value['instances'], 'instance')}")
    return 0
