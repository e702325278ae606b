"""`fildes up`: a node in the foreground."""

from __future__ import annotations

import argparse
import importlib
import ipaddress
import os

from fildes.cli._shared import Trouble, state_of

_WAYS = ("x-forwarded", "forwarded", "proxy-protocol")  # web/proxies.py says what they are
HELP = "run a node on a state directory, until Ctrl-C: fildes up --state ~/fildes --http 127.0.0.1:8080"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--http",
        metavar="ADDRESS:PORT",
        action="append",
        help="where to answer HTTP; may be given several times; port 0 takes a free one (default: 127.0.0.1:8080)",
    )
    parser.add_argument(
        "--index",
        metavar="URL",
        action="append",
        default=[],
        help="a package index for publishing, the default one first (default: what uv and pip are configured for)",
    )
    parser.add_argument(
        "--index-host",
        metavar="HOST[:PORT]",
        action="append",
        default=[],
        help="a host that the indexes keep their files on, where that is another one",
    )
    parser.add_argument(
        "--load-limit",
        metavar="SECONDS",
        type=float,
        help="how long a program may take to load before its publish fails (default: 60)",
    )
    parser.add_argument(
        "--command-limit",
        metavar="SECONDS",
        type=float,
        help="how long one command of on_release may take before its publish fails (default: 600, at most 3600)",
    )
    parser.add_argument(
        "--proxy",
        metavar="NETWORK[=WAY]",
        action="append",
        default=[],
        help="a proxy in front of this node, for example 127.0.0.1: what it says of its clients is believed, in one "
        "way: x-forwarded (the default), forwarded (RFC 7239) or proxy-protocol; nobody else is believed",
    )
    parser.add_argument(
        "--client-connections",
        metavar="N",
        type=int,
        help="how many connections one client may have at one service; an IPv6 client is its /64; 0 for any number "
        "(default: 1024; declared proxies are not counted)",
    )
    parser.add_argument("--access-log", action="store_true", help="a line a request in its service's log")
    parser.add_argument("--ready-fd", metavar="N", type=int, help="write a byte to this descriptor when serving")
    parser.add_argument("--table", default=None, help=argparse.SUPPRESS)  # other daemons, for tests of init


def run(args: argparse.Namespace) -> int:
    from fildes.init import ground, prepare, table

    try:
        wanted = prepare.Wanted(
            state=state_of(args),
            http=args.http or ["127.0.0.1:8080"],
            table=args.table or table.NAME,
            ready_fd=args.ready_fd,
            settings={} if args.table else _settings(args),
        )
        prepare.run(wanted)
    except (ground.Trouble, LookupError) as trouble:
        raise Trouble(str(trouble)) from trouble
    except OSError as error:
        raise Trouble(
            f"the node could not be started: {error}; `fildes doctor` says what this machine allows"
        ) from error


def _settings(args: argparse.Namespace) -> dict[str, object]:
    settings: dict[str, object] = {"index": _index(args.index, args.index_host)}
    if args.load_limit is not None:
        if not args.load_limit > 0:
            raise Trouble(f"--load-limit {args.load_limit:g}: expected a number of seconds above 0, for example 60")
        settings["load_limit"] = args.load_limit
    if args.command_limit is not None:
        if not 0 < args.command_limit <= 3600:
            raise Trouble(f"--command-limit {args.command_limit:g}: expected seconds above 0, and at most 3600")
        settings["command_limit"] = args.command_limit
    settings["proxies"] = [_proxy(text) for text in args.proxy]
    settings["access_log"] = args.access_log
    if args.client_connections is not None:
        if args.client_connections < 0:
            raise Trouble(f"--client-connections {args.client_connections}: expected a number, or 0 for any number")
        settings["client_connections"] = args.client_connections
    return settings


def _proxy(text: str) -> tuple[str, str]:
    network, _, way = text.partition("=")
    way = way or _WAYS[0]
    if way not in _WAYS:
        raise Trouble(f"--proxy {text}: a proxy speaks {', '.join(_WAYS[:-1])} or {_WAYS[-1]}, not {way!r}")
    try:
        return str(ipaddress.ip_network(network, strict=False)), way
    except ValueError as error:
        hint = "write an address or a network, like 192.0.2.7 or 10.0.0.0/24=proxy-protocol"
        raise Trouble(f"--proxy {text}: {error}; {hint}") from error


def _index(urls: list[str], hosts: list[str]) -> object:
    """What `publish` is told of package indexes: it finds that out itself, but only here are the user's variables."""
    # By name: the command line is built on none of the daemons; this one module of theirs is asked once, before init.
    index = importlib.import_module("fildes.publish.index")
    try:
        return index.discover(urls, os.environ, hosts)
    except ValueError as error:
        raise Trouble(str(error)) from error
