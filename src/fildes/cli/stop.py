"""`fildes stop NAME`: its processes end, until the next request; those of a `service` until `fildes start NAME`."""

from __future__ import annotations

import argparse
from typing import Any

from fildes.cli._service import arguments, ask

__all__ = ["HELP", "arguments", "run"]

HELP = "end a service's instances until they are needed or started: fildes stop guestbook"


def run(args: argparse.Namespace) -> int:
    def said(value: Any, instances: str) -> str:
        if not value["instances"] and not value["stays"]:
            return "no instance ran, so none was ended"
        start = f"it runs again after: fildes start {args.service}"
        return f"{instances} ended; {start if value['stays'] else 'the next request starts it again'}"

    return ask(args, "stop", said)
