"""`fildes gc`: give back the disk that old releases and caches take."""

from __future__ import annotations

import argparse

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of

HELP = "remove old releases and caches; what is current stays"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep", metavar="N", type=int, default=1, help="old releases of a service to go back to (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what old releases would go")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    if args.keep < 0:
        raise Trouble(f"--keep {args.keep}: expected how many, 0 or more")
    with Client(state_of(args)) as node:
        value, _ = node.ask("gc", {"keep": args.keep, "dry": args.dry_run})
    if args.json:
        _render.print_json(value)
        return 0
    would = "would go" if args.dry_run else "gone"
    print(f"{value['releases']} old releases {would}: {value['size'] / 1e6:,.1f} MB")
    if not args.dry_run:
        print(f"caches: {value['caches'] / 1e6:,.1f} MB; they are filled again by the next publish")
    return 0
