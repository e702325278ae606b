"""The fixed set of daemons of a real node: there, confined, back after kill -9, replaced by an upgrade, gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fildes.testing import Node, eventually

NAMES = [
    *("log", "shared", "net", "storage", "inspect", "catalogue"),
    *("bus", "orchestrator", "static", "web", "publish", "debug"),
]
WITHOUT_FILTER = {"orchestrator"}  # what it starts could not be given up again


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.fixture(scope="module")
def shared_node() -> Node:
    with Node() as node:
        yield node


def test_every_daemon_is_there_and_confined(shared_node: Node) -> None:
    daemons = shared_node.daemons()
    assert list(daemons) == NAMES
    for name, pid in daemons.items():
        words = status(pid)
        assert words["NoNewPrivs"] == "1", name
        if name not in WITHOUT_FILTER:
            assert words["Seccomp"] == "2", name
    if os.geteuid() == 0:
        uids = [status(pid)["Uid"].split()[0] for pid in daemons.values()]
        assert len(set(uids)) == len(uids)
        powerless = {name for name, pid in daemons.items() if int(status(pid)["CapPrm"], 16) == 0}
        assert set(NAMES) - powerless == {"inspect", "orchestrator"}


def test_nothing_but_init_s_own_is_open_in_a_daemon(shared_node: Node) -> None:
    # No terminal, no directory and no socket but its own; what it opened itself is its own business.
    terminal = "/dev/"
    for name, pid in shared_node.daemons().items():
        links = [os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd")]
        devices = {link for link in links if link.startswith(terminal)}
        assert devices <= {"/dev/null"}, name
        directories = {link for link in links if link.startswith(str(shared_node.state))}
        assert all(Path(link).relative_to(shared_node.state).parts for link in directories), name


def test_idle_daemons_do_not_wake_up(shared_node: Node) -> None:
    pids = [shared_node.pid, shared_node.init, *shared_node.daemons().values()]

    def switches() -> int:
        counts = (status(pid) for pid in pids)
        return sum(int(c["voluntary_ctxt_switches"]) + int(c["nonvoluntary_ctxt_switches"]) for c in counts)

    settled = switches()
    quiet = time.monotonic()

    def calm() -> bool:
        nonlocal settled, quiet
        if (now := switches()) != settled:
            settled, quiet = now, time.monotonic()
        return time.monotonic() - quiet > 2.0

    eventually(calm, 15, "two seconds without a wake-up of any daemon")


@pytest.mark.parametrize("name", NAMES)
def test_kill_9_of_a_daemon(shared_node: Node, name: str) -> None:
    descriptors = len(os.listdir(f"/proc/{shared_node.init}/fd"))
    others = {n: pid for n, pid in shared_node.daemons().items() if n != name}
    old = shared_node.kill(name)

    def back() -> bool:
        pid = shared_node.daemons().get(name)
        if pid in (None, old):
            return False
        words = status(pid)
        return words["Seccomp"] == "2" or (name in WITHOUT_FILTER and words["NoNewPrivs"] == "1")

    eventually(back, 5)
    assert {n: pid for n, pid in shared_node.daemons().items() if n != name} == others
    assert len(os.listdir(f"/proc/{shared_node.init}/fd")) >= descriptors
    eventually(lambda: f"{name} (pid " in shared_node.output())


def test_an_upgrade_replaces_every_daemon(start_node: Callable[..., Node]) -> None:
    node = start_node()
    init, old = node.init, node.daemons()
    os.kill(node.pid, signal.SIGHUP)
    eventually(lambda: "every daemon runs the new code" in node.output(), 20)
    assert node.init == init
    assert list(node.daemons()) == NAMES
    assert not set(node.daemons().values()) & set(old.values())
    node.stop()
