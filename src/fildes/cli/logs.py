"""`fildes logs NAME`: what a service wrote, and what the node says about it: a pipe, read until its end."""

from __future__ import annotations

import argparse
import os
import sys

from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of

HELP = "print a service's log: fildes logs guestbook -f"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written from now on")
    parser.add_argument("-n", "--lines", metavar="N", type=int, default=200, help="how many lines back (default: 200)")


def run(args: argparse.Namespace) -> int:
    if args.lines < 0:
        raise Trouble("-n: a number of lines, 0 or more")
    body = {"service": args.service, "lines": args.lines, "follow": args.follow}
    with Client(state_of(args)) as node:
        _, fds = node.ask("logs", body)
    if len(fds) != 1:
        raise Trouble("the node gave no log to read; see: fildes ps --all")
    sys.stdout.flush()
    with fds[0] as log:
        while data := os.read(log.fileno(), 65536):
            view = memoryview(data)
            while view:
                view = view[os.write(sys.stdout.fileno(), view) :]
    return 0
