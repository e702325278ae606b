"""What the verbs share."""

from __future__ import annotations

import argparse
import os


class Trouble(Exception):
    """The verb can't do it (exit status 1), for a reason its user can do something about: the sentence says what."""


def state_of(args: argparse.Namespace) -> str:
    """The state directory, absolute. Raises Trouble if neither --state nor FILDES_STATE names one."""
    state = args.state or os.environ.get("FILDES_STATE")
    if not state:
        raise Trouble("which node? Name its state directory: --state DIR, or set FILDES_STATE")
    return os.path.abspath(state)
