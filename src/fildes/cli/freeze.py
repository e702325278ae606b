"""`fildes freeze NAME`: its processes stand still, and who connects waits."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "let a service's processes stand still: fildes freeze guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, _ = node.ask("freeze", {"service": args.service})
    if args.json:
        _render.print_json(value)
    else:
        stand = _render.count(value["instances"], "instance")
        print(f"{args.service}: frozen, {stand}; who connects waits until: fildes thaw {args.service}")
    return 0
