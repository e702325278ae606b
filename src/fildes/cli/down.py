"""`fildes down`: end a node in order, and wait until it is gone."""

from __future__ import annotations

import argparse
import os
import select
import signal

from fildes.cli._shared import Trouble, state_of

HELP = "end the node of a state directory"

PATIENCE = 6.0  # seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    from fildes.init import ground
    from fildes.kernel import process
    from fildes.kernel.fds import Fd

    state = state_of(args)
    try:
        directory = Fd.open(state, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Trouble(f"--state {state}: {error.strerror}") from error
    with directory:
        try:
            pid = ground.holder(directory.fileno())
        except PermissionError as error:
            raise Trouble(f"--state {state}: its node is another user's: ask that user, or root") from error
        if pid is None:
            raise Trouble(f"--state {state}: no node runs there")
        try:
            pidfd = process.pidfd_open(pid)
        except ProcessLookupError:
            return 0  # it ended in this moment
        with pidfd:
            # Now that the process is held, its number can't become another's: is it still the one that holds the lock?
            if ground.holder(directory.fileno()) != pid:
                return 0
            try:
                process.pidfd_send_signal(pidfd.fileno(), signal.SIGTERM)
            except PermissionError as error:
                raise Trouble(f"--state {state}: process {pid} is another user's: ask that user, or root") from error
            poll = select.poll()
            poll.register(pidfd.fileno(), select.POLLIN)
            if not poll.poll(PATIENCE * 1000):
                raise Trouble(
                    f"process {pid} was told to end {PATIENCE:g} s ago and is still there; `kill -9 {pid}` ends it"
                )
    return 0
