"""`fildes thaw NAME`: what was frozen goes on."""

from __future__ import annotations

import argparse

from fildes.cli._service import arguments, ask

__all__ = ["HELP", "arguments", "run"]

HELP = "let a frozen service go on: fildes thaw guestbook"


def run(args: argparse.Namespace) -> int:
    return ask(args, "thaw", lambda _, instances: f"goes on, {instances}")
