"""`fildes repack`: releases that were packed for another Python than the node's are packed anew."""

from __future__ import annotations

import argparse
import sys

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of
from fildes.cli.publish import Watch

HELP = "pack stored sources again, after the node's Python was upgraded: fildes repack"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", nargs="?", help="only this service (default: all that need it)")
    parser.add_argument("--release", metavar="ID", help="an older release of it, which becomes the current one")
    parser.add_argument("--json", action="store_true", help='{"published": […], "failed": {name: text}}')


def run(args: argparse.Namespace) -> int:
    if args.release and not args.service:
        raise Trouble("--release: of which service? fildes repack NAME --release ID")
    published, failed = [], {}
    with Client(state_of(args)) as node:
        names = [args.service] if args.service else node.ask("foreign", {})[0]["services"]
        for name in names:
            watch = Watch(quiet=args.json)
            try:
                done, _ = node.ask("repack", {"service": name, "release": args.release}, note=watch.note)
            except Trouble as trouble:  # the others go on
                if args.service:
                    raise
                failed[name] = str(trouble)
                print(f"fildes: {name}: {trouble}", file=sys.stderr)
                continue
            watch.conclude(done)
            published.append(done)
    if args.json:
        _render.print_json({"published": published, "failed": failed})
    elif not names:
        print("nothing to do: every release is packed for this node's Python")
    return 1 if failed else 0
