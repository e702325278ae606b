"""`fildes gc`: give back the disk that old releases and caches take; with --data also what removed services left."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of

HELP = "remove old releases and caches; what is current stays: fildes gc --keep 3 --dry-run"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep", metavar="N", type=int, default=1, help="old releases of a service to go back to (default: 1)"
    )
    parser.add_argument("--data", action="store_true", help="also the data of services that were removed, for good")
    parser.add_argument("--yes", action="store_true", help="do not ask before --data")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    if args.keep < 0:
        raise Trouble(f"--keep {args.keep}: expected how many, 0 or more")
    if args.data and not (args.yes or args.dry_run or sys.stdin.isatty()):
        raise Trouble("--data deletes what removed services left, for good; say --yes too if you mean it")
    with Client(state_of(args)) as node:
        data: list[Any] = []
        if args.data and not args.dry_run:
            found, _ = node.ask("gc", {"keep": args.keep, "dry": True})
            data = [[kept["owner"], kept["service"]] for kept in found["data"]]
            if data and not args.yes:
                _ask(found["data"])
        value, _ = node.ask("gc", {"keep": args.keep, "dry": args.dry_run, "data": data})
    if args.json:
        _render.print_json(value)
        return 0
    would = "would go" if args.dry_run else "gone"
    print(f"{_render.count(value['releases'], 'old release')} {would}: {value['size'] / 1e6:,.1f} MB")
    if not args.dry_run:
        print(f"caches: {value['caches'] / 1e6:,.1f} MB; they are filled again by the next publish")
    gone = [kept for kept in value["data"] if kept["gone"]]
    there = [kept for kept in value["data"] if not kept["gone"]]
    if gone:
        print(f"data of {_render.count(len(gone), 'removed service')} gone: {_total(gone)}")
    if there:
        print(f"data of removed services, {_total(there)} (gone with: fildes gc --data):\n{_table(there)}")
    return 0


def _ask(kept: list[dict[str, Any]]) -> None:
    """Raises Trouble unless somebody means it."""
    print(f"What these removed services left will be deleted, for good:\n{_table(kept)}")
    if input("Type yes to go on: ").strip() != "yes":
        raise Trouble("nothing was deleted")


def _total(kept: list[dict[str, Any]]) -> str:
    return _render.size(sum(one["size"] for one in kept))


def _table(kept: list[dict[str, Any]]) -> str:
    rows = [[one["service"], one["owner"], ", ".join(one["grants"]), _render.size(one["size"])] for one in kept]
    return _render.table(["SERVICE", "OWNER", "GRANTS", "ON DISK"], rows, indent="  ")
