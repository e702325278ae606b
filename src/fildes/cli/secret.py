"""`fildes secret`: values that a program gets as a descriptor. They come by standard input, never on a command line,
where every user of the machine could read them."""

from __future__ import annotations

import argparse
import sys

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of

HELP = "set, list and remove secrets: fildes secret set guestbook API_KEY < key.txt"
MAX_VALUE = 64 << 10


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("set", "list", "rm"))
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("key", metavar="KEY", nargs="?", help="the secret's name")
    parser.add_argument("--owner", metavar="WHO", help="for a service that is not published yet (default: local)")
    parser.add_argument("--keep-newline", action="store_true", help="keep a line end at the end of the value")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    if (args.key is None) != (args.what == "list"):
        raise Trouble(f"write: fildes secret {args.what} NAME" + ("" if args.what == "list" else " KEY"))
    body = {"service": args.service, "name": args.key or "", "owner": args.owner}
    if args.what != "set":
        with Client(state_of(args)) as node:
            value, _ = node.ask(f"secret-{args.what}", body)
        if args.json:
            _render.print_json(value)
        elif args.what == "list":
            print("\n".join(value["names"]) or f"{args.service} has no secrets")
        else:
            print(f"{args.service}: {args.key} is removed; a program whose manifest grants it starts no more")
        return 0

    from fildes.kernel import memfd

    given = _value(args)
    with Client(state_of(args)) as node:
        node.ask("secret-set", body, [memfd.sealed("secret", given)])
    if not args.json:
        print(
            f"{args.service}: {args.key} is set; running instances keep the old one until: fildes stop {args.service}"
        )
    return 0


def _value(args: argparse.Namespace) -> bytes:
    if sys.stdin.isatty():
        import getpass

        value = getpass.getpass(f"{args.key}: ").encode()
    else:
        value = sys.stdin.buffer.read(MAX_VALUE + 1)
        if not args.keep_newline:  # `echo` and editors put one there that nobody means
            value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise Trouble("the value is empty; give it by standard input: fildes secret set NAME KEY < FILE")
    if len(value) > MAX_VALUE:
        raise Trouble(f"the value has more than {MAX_VALUE} bytes")
    return value
