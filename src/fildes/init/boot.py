"""The top of init's process: read the ledger, take what it names, supervise, leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys

from fildes.init import boxes, bytecode, spawn, table, tidy
from fildes.init import ledger as ledgers
from fildes.init.boxes import Boxes
from fildes.init.image import inherited
from fildes.init.supervisor import Supervisor
from fildes.kernel import memfd, process


def main(arguments: list[str]) -> int:
    """`[--check] NUMBER`: the descriptor of the sealed ledger. With --check only say whether it would work."""
    check = arguments[:1] == ["--check"]
    with inherited(int(arguments[-1])) as sealed:
        ledger = ledgers.decode(memfd.read_sealed(sealed.fileno()))
    sys.path[:] = ledger.path
    daemons = table.load(ledger.table)
    if check:
        return _check(daemons)
    for number in ledger.numbers():
        os.set_inheritable(number, False)
    process.set_name("fildes-init")
    process.set_dumpable(False)
    process.set_child_subreaper()  # where it is not PID 1 of a namespace
    fds = {name: inherited(number) for name, number in ledger.fds.items()}
    supervisor = Supervisor(ledger, daemons, fds, Boxes.open(ledger.cgroup, [daemon.name for daemon in daemons]))
    spawn.prepare()
    status = supervisor.run()
    tidy.kill_the_rest()
    boxes.remove(ledger.cgroup)
    tidy.state(fds["state"].fileno())
    signal.set_wakeup_fd(-1)
    return status


def _check(daemons: tuple[table.Daemon, ...]) -> int:
    import importlib.util

    bytecode.refresh(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    missing = [daemon.module for daemon in daemons if importlib.util.find_spec(daemon.module) is None]
    for module in missing:
        print(f"fildes: no module {module}", file=sys.stderr)
    return 1 if missing else 0
