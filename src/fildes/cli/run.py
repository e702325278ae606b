"""`fildes run NAME -- python manage.py createsuperuser`: one command in a release's confinement."""

from __future__ import annotations

import argparse
import os
import sys

from fildes.cli import _relay
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of
from fildes.kernel.fds import Fd, seqpacket_pair
from fildes.wire import command as wire

HELP = "run one command in a release's confinement: fildes run shop -- python manage.py createsuperuser"
EPILOG = """\
The command is what would stand behind python: FILE ARGS…, -m MODULE ARGS…, -c CODE; nothing is a prompt. It has the
release's grants, environment and limits. On a terminal, Ctrl-] three times ends it whatever it does with its signals.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.usage = "fildes run [--release ID] NAME -- [python] ARG…"
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("--release", metavar="ID", help="another than the current one; see: fildes releases NAME")
    parser.add_argument("words", metavar="ARG", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    try:
        wire.invocation(words)
    except ValueError as error:
        raise Trouble(str(error)) from error
    streams = _relay.Streams()
    lease, theirs = seqpacket_pair()
    try:
        _order(args, words, theirs, streams)
        with _relay.raw(streams):
            ended = _relay.Relay(streams, lease).run()
    except _relay.Lost:
        raise Trouble(
            f"the node lost sight of the command; what became of it shows: fildes ps {args.service}"
        ) from None
    finally:
        streams.close()
        lease.close()
    code = os.waitstatus_to_exitcode(ended.status)
    if ended.text:
        print(f"fildes: {args.service}: {ended.text}", file=sys.stderr)
    return code if code >= 0 else 128 - code


def _order(args: argparse.Namespace, words: list[str], lease: Fd, streams: _relay.Streams) -> None:
    """Have it started. `lease` and the streams' far ends are consumed."""
    body = {
        "service": args.service,
        "release": args.release,
        "arguments": words,
        "terminal": os.environ.get("TERM", "") if streams.terminal else "",
    }
    theirs, streams.theirs = streams.theirs, []
    with Client(state_of(args)) as node:
        node.ask("run", body, [lease, *theirs])
