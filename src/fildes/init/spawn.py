"""A daemon from fork to its own `main`: it keeps its descriptors, loses init's privileges, and only then imports."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn

from fildes.init.boxes import Box
from fildes.init.table import CAP_DAC_READ_SEARCH, Daemon
from fildes.kernel import process

# Loaded by name, in the child: init itself never imports what a daemon runs.
_START: Final = "fildes.daemon.start"
# Of the standard library, what every daemon imports: loaded once before the forks, and then shared. Nothing of ours
# beyond `kernel`, so that a restarted daemon runs what is on disk, and nothing of others, which would run as PID 1.
_SHARED: Final = (
    "datetime",
    "decimal",
    "enum",
    "hashlib",
    "pathlib",
    "re",
    "string",
    "tomllib",
    "uuid",
    "fildes.kernel.seccomp",
)


class Given(NamedTuple):
    """What a daemon is handed; descriptors by number, borrowed until the fork."""

    channel: int
    store: int
    fds: Mapping[str, int]
    settings: dict[str, Any]
    uid_base: int | None
    box: Box | None


def prepare() -> None:
    """Once, before the first `start`."""
    for name in _SHARED:
        importlib.import_module(name)
    gc.collect()


def start(daemon: Daemon, given: Given) -> int:
    """Fork `daemon`; returns its pid."""
    gc.freeze()  # or the child's first collection would touch, and so copy, every page of init's heap
    everything = signal.valid_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    try:
        pid = os.fork()
        if pid == 0:
            _run(daemon, given)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _run(daemon: Daemon, given: Given) -> NoReturn:
    """The child. It ends without unwinding: init's objects below on the stack are not its own to close."""
    status = 1
    try:
        _let_go_of_init(given)
        _confine(daemon, given)
        status = _main(daemon, given)
    except BaseException:
        print(f"fildes: {daemon.name} could not be started:", file=sys.stderr)
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _let_go_of_init(given: Given) -> None:
    # Signals were blocked over the fork: one that came before this line would have been written to init's own
    # wake-up pipe, as if it had been meant for init.
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    if given.box is not None:
        given.box.enter()
    process.close_all_but({0, 1, 2, given.channel, given.store, *given.fds.values()})


def _confine(daemon: Daemon, given: Given) -> None:
    parent = os.getppid()
    os.umask(0o077)
    if given.uid_base is not None:
        # An interpreter under a home directory may be out of reach for the daemon's uid: reading past permissions is
        # allowed until its imports are done, see daemon.start.confine.
        loading = daemon.keep | {CAP_DAC_READ_SEARCH}
        uid = 0 if daemon.uid is None else given.uid_base + daemon.uid
        process.become(uid, uid, keep=loading)
    else:
        process.drop_capabilities()
    process.set_dumpable(False)
    process.set_parent_death_signal(signal.SIGKILL)  # after `become`: a change of uid clears it
    if os.getppid() != parent:
        raise OSError("init ended while this was being started")
    process.set_name(f"fd-{daemon.name}")  # 15 bytes: "fd-orchestrator"


def _main(daemon: Daemon, given: Given) -> int:
    start = importlib.import_module(_START)
    fds = importlib.import_module("fildes.kernel.fds")
    inheritance = start.Inheritance(
        daemon.name,
        fds.Fd(given.channel),
        fds.Fd(given.store),
        {name: fds.Fd(number) for name, number in given.fds.items()},
        given.settings,
        keep=daemon.keep if given.uid_base is not None else frozenset(),
    )
    result: int = start.run(daemon.module, inheritance)
    return result
