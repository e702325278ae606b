"""`fildes down`: end a node in order, and wait until it is gone; with --purge leave nothing of it."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import stat
import sys

from fildes.cli._shared import Trouble, state_of
from fildes.kernel import mounts
from fildes.kernel.fds import Fd
from fildes.kernel.removing import remove_folder

HELP = "end the node of a state directory; with --purge delete all that it keeps: fildes down --purge"

PATIENCE = 6.0  # seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--purge", action="store_true", help="then delete the state directory: services, releases, data, secrets, logs"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before --purge")


def run(args: argparse.Namespace) -> int:
    from fildes.init import ground

    state = state_of(args)
    try:
        directory = Fd.open(state, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Trouble(f"--state {state}: {error.strerror}") from error
    with directory:
        if args.purge:
            _may_be_purged(state, directory.fileno(), sure=args.yes)
        try:
            pid = ground.holder(directory.fileno())
        except PermissionError as error:
            raise Trouble(f"--state {state}: its node is another user's: ask that user, or root") from error
        if pid is not None:
            _end(state, directory.fileno(), pid)
        elif not args.purge:
            raise Trouble(f"--state {state}: no node runs there")
    if args.purge:
        _purge(state)
    return 0


def _end(state: str, directory: int, pid: int) -> None:
    from fildes.init import ground
    from fildes.kernel import process

    try:
        pidfd = process.pidfd_open(pid)
    except ProcessLookupError:
        return  # it ended in this moment
    with pidfd:
        # Now that the process is held, its number can't become another's: is it still the one that holds the lock?
        if ground.holder(directory) != pid:
            return
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


def _may_be_purged(state: str, directory: int, *, sure: bool) -> None:
    """Raises Trouble unless this is a state directory, and somebody means it."""
    from fildes.init import ground

    if not ground.read(directory, "VERSION"):
        raise Trouble(f"--state {state}: this is not a state directory; nothing was deleted")
    if sure:
        return
    if not sys.stdin.isatty():
        raise Trouble(f"--purge deletes all that is in {state}, for good; say --yes too if you mean it")
    print(f"All services, releases, data, secrets and logs in {state} will be deleted, for good.")
    if input("Type yes to go on: ").strip() != "yes":
        raise Trouble("nothing was deleted")


def _must_be_free(state: str) -> None:
    """What is mounted below is not the node's: its own mounts ended with it. Raises Trouble."""
    real = os.path.realpath(state)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        below = [point for point in mounts.mount_points(file.read()) if point.startswith(f"{real}/")]
    if below:
        raise Trouble(f"{below[0]}: something is mounted there, and would be deleted too: umount it first")


def _purge(state: str) -> None:
    """Nobody can start a node there meanwhile: the lock is held until it is gone."""
    from fildes.init import boxes, ground

    taken = ground.Ground.take(state)
    try:
        # What a node that was killed had left running.
        left = boxes.Boxes.make(ground.cgroup_name(os.fstat(taken.directory.fileno())), [])
        boxes.remove(left.name)
        top = taken.directory.fileno()
        _must_be_free(state)
        for name in os.listdir(top):
            if stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
                remove_folder(name, top)
            elif name != ground.LOCK:
                os.unlink(name, dir_fd=top)
        shutil.rmtree(state)
    except OSError as error:
        raise Trouble(f"{error.filename or state}: {error.strerror}; run it again, as root if need be") from error
    finally:
        taken.close()
