"""`fildes up` before there is a node: the state directory, the sockets, the cgroups, and the start of init.

Then this process executes the keeper (keeper.py), which knows only what it watches over: the command line's modules
would be 6 MB for the life of the node.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from fildes import __version__
from fildes.init import boxes, bytecode, doors, keeper, manager, table, tidy, world
from fildes.init.boxes import SERVICES, Boxes
from fildes.init.ground import Ground, cgroup_name, write
from fildes.init.ledger import Ledger
from fildes.kernel import process
from fildes.kernel.fds import Fd, close_all, seqpacket_pair


class Wanted(NamedTuple):
    """What the command line says. `settings` go to every daemon."""

    state: str
    http: Sequence[str]
    table: str = table.NAME
    ready_fd: int | None = None
    settings: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default; never changed)


def run(wanted: Wanted) -> NoReturn:
    """Start a node and become its keeper. Returns only by raising (Trouble, LookupError, OSError), nothing left."""
    daemons = table.load(wanted.table)
    ground = Ground.take(wanted.state)
    fds: dict[str, Fd] = {"state": ground.directory, "lock": ground.lock}
    cgroup = None
    try:
        uid_base = world.own_uids()
        if uid_base is not None:
            bytecode.refresh(_package())
        addresses = _open_doors(wanted.http, fds, for_all=uid_base is not None)
        _open_directories(daemons, ground, uid_base, fds)
        _set_limits()
        cgroup = Boxes.make(cgroup_name(os.fstat(ground.directory.fileno())), [daemon.name for daemon in daemons]).name
        settings = {
            "root": uid_base is not None,
            "uid_base": uid_base or 0,
            "operator": os.getuid(),
            "state": ground.path,
            "http": addresses,
            "python": sys.executable,
            "version": __version__,
            "cgroup": f"{cgroup}/{SERVICES}" if cgroup else None,
            **wanted.settings,
        }
        write(ground.directory.fileno(), tidy.HTTP, "".join(f"{address}\n" for address in addresses), 0o644)
        ledger = Ledger(wanted.table, _path(), settings, uid_base, {}, cgroup)
        _become_keeper(ledger, fds, wanted.ready_fd)
    finally:
        tidy.state(ground.directory.fileno())
        boxes.remove(cgroup)
        close_all(list(fds.values()))


def _become_keeper(ledger: Ledger, fds: dict[str, Fd], ready_fd: int | None) -> NoReturn:
    """Start init, and execute the keeper in this process. Returns only by raising; init is killed then."""
    process.set_child_subreaper()
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.SIGNALS)  # init and the keeper are born so, and miss none
    lifeline, theirs = seqpacket_pair()
    output, printed = world.start_pipe()
    numbers = {name: fd.fileno() for name, fd in fds.items()} | {"lifeline": theirs.fileno()}
    try:
        init = world.launch(ledger._replace(fds=numbers), printed.fileno())
    except BaseException:
        printed.close()
        keeper.relay(output.fileno())
        close_all((lifeline, theirs, output))
        raise
    close_all((theirs, printed))
    watch = keeper.Watch(
        pid=process.pidfd_pid(init.fileno()),
        init=init.fileno(),
        lifeline=lifeline.fileno(),
        output=output.fileno(),
        state=fds["state"].fileno(),
        lock=fds["lock"].fileno(),
        ready=-1 if ready_fd is None else ready_fd,
        cgroup=ledger.cgroup,
        addresses=ledger.settings["http"],
        manager=os.environ.get(manager.VARIABLE, ""),
    )
    try:
        keeper.execute(watch, ledger.settings["state"])
    finally:
        process.pidfd_send_signal(init.fileno(), signal.SIGKILL)
        close_all((init, lifeline, output))
        tidy.kill_the_rest()


def _open_doors(http: Sequence[str], fds: dict[str, Fd], *, for_all: bool) -> list[str]:
    addresses = []
    for number, (fd, address) in enumerate(doors.open_all(http)):
        fds[f"http{number}"] = fd
        addresses.append(address)
    state = fds["state"].fileno()
    if for_all:  # what is in it has modes of its own: only its names become reachable
        os.fchmod(state, os.fstat(state).st_mode & 0o7777 | 0o111)
    fds["control"] = doors.open_control(state, for_all=for_all)
    return addresses


def _open_directories(
    daemons: Sequence[table.Daemon], ground: Ground, uid_base: int | None, fds: dict[str, Fd]
) -> None:
    for daemon in daemons:
        if daemon.directory:
            owner = None if uid_base is None else 0 if daemon.uid is None else uid_base + daemon.uid
            fds[f"dir.{daemon.name}"] = ground.subdirectory(daemon.directory[1], owner)


def _set_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _path() -> list[str]:
    """sys.path for init and the daemons: Fildes first, and not the place that this command happened to be run from."""
    package = os.path.dirname(_package())
    rest = sys.path if sys.flags.safe_path else sys.path[1:]
    return [package, *(os.path.abspath(entry) for entry in rest if entry and entry != package)]


def _package() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
