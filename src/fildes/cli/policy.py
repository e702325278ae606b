"""`fildes policy`: what an owner's manifests may claim."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of

HELP = "show or change what an owner may claim: fildes policy anna suffixes='*.localhost,anna.example.org'"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("owner", metavar="WHO", nargs="?", help="the owner (default: local)")
    parser.add_argument(
        "change", metavar="KEY=VALUE", nargs="*", help="lists with commas; sizes in bytes; cpu in cores"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    changes = [args.owner, *args.change] if args.owner and "=" in args.owner else args.change
    owner = None if args.owner and "=" in args.owner else args.owner
    with Client(state_of(args)) as node:
        value, _ = node.ask("policy", {"owner": owner, "change": dict(_change(text) for text in changes)})
    if args.json:
        _render.print_json(value)
    else:
        rows = [[key, ", ".join(entry) if isinstance(entry, list) else entry] for key, entry in value.items()]
        print(_render.table(["KEY", "VALUE"], rows))
    return 0


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise Trouble(f"{text}: write KEY=VALUE, like services=100")
    if key in ("suffixes", "kinds"):
        return key, [word.strip() for word in value.split(",") if word.strip()]
    try:
        return key, json.loads(value)
    except ValueError as error:
        raise Trouble(f"{text}: {value!r} is not a number") from error
