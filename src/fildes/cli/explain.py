"""`fildes explain`: what was refused lately, and which line would have allowed it; and how a service is confined."""

from __future__ import annotations

import argparse
import time

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of

HELP = "show refusals and the lines that would allow them: fildes explain guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", nargs="?", help="only of this service")
    parser.add_argument("--plan", action="store_true", help="how the service's release is confined, step by step")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    if args.plan and args.service is None:
        raise Trouble("of which service? write: fildes explain --plan NAME")
    with Client(state_of(args)) as node:
        value, _ = node.ask("plan" if args.plan else "explain", {"service": args.service})
    if args.json:
        _render.print_json(value)
    elif args.plan:
        print("\n".join(value["steps"]))
    elif not value["denials"]:
        print("nothing was asked for at the bus and refused since it started")
        log = f"fildes logs {args.service or 'NAME'}"
        print(f"what a program is refused by itself (time, random numbers, files, sockets) is in its log: {log}")
    else:
        for one in value["denials"]:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["when"]))
            print(f"{when}  {one['service']} asked for {one['asked']}: {one['text']}")
            for line in (one["grant"] or "").splitlines():
                print(f"    {line}")
    return 0
