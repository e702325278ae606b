"""`fildes freeze NAME`: its processes stand still, and who connects waits."""

from __future__ import annotations

import argparse

from fildes.cli._service import arguments, ask

__all__ = ["HELP", "arguments", "run"]

HELP = "let a service's processes stand still: fildes freeze guestbook"


def run(args: argparse.Namespace) -> int:
    until = f"who connects waits until: fildes thaw {args.service}"
    return ask(args, "freeze", lambda _, instances: f"frozen, {instances}; {until}")
