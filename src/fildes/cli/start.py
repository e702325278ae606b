"""`fildes start NAME`: what was stopped, or halted for its crashes, runs again."""

from __future__ import annotations

import argparse

from fildes.cli._service import arguments, ask

__all__ = ["HELP", "arguments", "run"]

HELP = "run a service that was stopped or halted: fildes start guestbook"


def run(args: argparse.Namespace) -> int:
    return ask(args, "start", lambda _, instances: f"serves, {instances}")
