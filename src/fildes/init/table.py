"""The fixed set of daemons, as data: what each is given, what it may, and how it is kept alive.

The order is the order of start; the node closes in the reverse. Nothing waits for anything at the start: what is asked
of a daemon that is not there yet waits in its channel.
"""

from __future__ import annotations

import importlib
from typing import Final, NamedTuple

from fildes.kernel.process import (
    CAP_DAC_OVERRIDE,
    CAP_KILL,
    CAP_NET_ADMIN,
    CAP_SETGID,
    CAP_SETPCAP,
    CAP_SETUID,
    CAP_SYS_ADMIN,
    CAP_SYS_CHROOT,
    CAP_SYS_PTRACE,
)

# linux/capability.h
CAP_CHOWN: Final = 0
CAP_DAC_READ_SEARCH: Final = 2
CAP_FOWNER: Final = 3


class Daemon(NamedTuple):
    name: str
    module: str  # has main(inheritance); imported in the forked child only
    uid: int | None  # offset from the node's first uid; None: stays root, with no capability but `keep`
    directory: tuple[str, str] | None = None  # (name of the descriptor, directory below STATE that it owns)
    sockets: str | None = None  # "http" or "control": the listening sockets it inherits, "http0", "http1", …
    all_channels: bool = False  # inherits the far end of every daemon's channel, as "channel.<daemon>"
    hears_exits: bool = False  # is told of every reaped process that is no daemon
    lists_daemons: bool = False  # may ask what runs
    keep: frozenset[int] = frozenset()  # capabilities(7), where the node has root
    restart: str = "permanent"  # always started again; "transient": unless it ended with 0; "temporary": never
    intensity: int = 8  # ends within `period` that are answered by an immediate start
    period: float = 10.0  # seconds
    shutdown: float = 0.3  # seconds from being told that the node closes to SIGKILL
    deposits: int = 1024  # what it may keep in the fd store
    deposited_fds: int = 4096


DAEMONS: Final = (
    # A pipe a release that runs.
    Daemon("log", "fildes.drivers.log.__main__", 1, directory=("state", "log"), deposits=16384),
    Daemon("shared", "fildes.drivers.shared.__main__", 2),
    Daemon("net", "fildes.drivers.net.__main__", 3),
    Daemon("storage", "fildes.drivers.storage.__main__", 13, directory=("data", "data")),  # 12 is publish's cell
    Daemon(
        "inspect",
        "fildes.drivers.inspect.__main__",
        4,
        # Reading /proc/PID/fd of processes that are not dumpable and of another uid takes both.
        keep=frozenset({CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH}),
    ),
    Daemon("catalogue", "fildes.catalogue.__main__", 5, directory=("state", "catalogue")),
    Daemon(
        "bus",
        "fildes.bus.__main__",
        6,
        all_channels=True,
        deposits=16384,
        deposited_fds=32768,
    ),
    Daemon(
        "orchestrator",
        "fildes.orchestrator.__main__",
        # cgroup v1 lets nobody but uid 0 move the processes of another uid.
        None,
        directory=("trees", "trees"),
        hears_exits=True,
        keep=frozenset(
            {
                CAP_CHOWN,
                CAP_DAC_OVERRIDE,
                CAP_DAC_READ_SEARCH,
                CAP_FOWNER,
                CAP_KILL,
                CAP_SETGID,
                CAP_SETUID,
                CAP_SETPCAP,
                CAP_SYS_CHROOT,
                CAP_SYS_PTRACE,
                CAP_SYS_ADMIN,
            }
        ),
        shutdown=1.0,
        deposits=16384,
        deposited_fds=65536,
    ),
    Daemon("static", "fildes.static.__main__", 8),
    Daemon("web", "fildes.web.__main__", 9, sockets="http", deposits=16384, deposited_fds=32768),
    Daemon(
        "publish",
        "fildes.publish.__main__",
        10,
        directory=("scratch", "publish"),
        # For making the cell, in which uv runs under a uid of its own (this one + 2). It is the first thing that the
        # process does; then it gives them up, before it reads anything of anybody's.
        keep=frozenset({CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CAP_SYS_ADMIN, CAP_NET_ADMIN}),
    ),
    Daemon("debug", "fildes.debug.__main__", 11, sockets="control", lists_daemons=True),
)

NAME: Final = "fildes.init.table:DAEMONS"


def load(name: str) -> tuple[Daemon, ...]:
    """The table that "module:attribute" names. Raises LookupError, with the sentence, if it is not one."""
    module, _, attribute = name.partition(":")
    try:
        table = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"no table of daemons at {name!r}: {error}") from error
    table = tuple(table)
    if not table or not all(isinstance(d, Daemon) for d in table) or len({d.name for d in table}) != len(table):
        raise LookupError(f"{name!r} is not a table of daemons, each with a name of its own")
    return table
