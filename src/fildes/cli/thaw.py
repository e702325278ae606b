"""`fildes thaw NAME`: what was frozen goes on."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "let a frozen service go on: fildes thaw guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("thaw", {"service": args.service})
    if args.json:
        _render.print_json(value)
    else:
        print(f"{args.service}: goes on, {_render.count(value['instances'], 'instance')}")
    return 0
