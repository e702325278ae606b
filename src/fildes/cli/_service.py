"""What the verbs share that ask one thing of one service."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("--json", action="store_true", help="as JSON")


def ask(args: argparse.Namespace, verb: str, said: Callable[[Any, str], str]) -> int:
    """Ask `verb`, and print the answer: as JSON, or as `said(answer, instances in words)` behind the name."""
    with Client(state_of(args)) as node:
        value, _ = node.ask(verb, {"service": args.service})
    if args.json:
        _render.print_json(value)
    else:
        print(f"{args.service}: {said(value, _render.count(value['instances'], 'instance'))}")
    return 0
