"""Several instances of a service: as many as are needed, some that stand by, and what an operator says of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.testing import Node, eventually, write_program

HOLD = """
import asyncio, os, signal

held = True

def let_go(*_):
    global held
    held = False

signal.signal(signal.SIGUSR1, let_go)

async def act(path):
    while path == "/stay" and held:
        await asyncio.sleep(0.01)
    return os.getpid()
"""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node() as node:
        above = tmp_path_factory.mktemp("crowded")
        limits = "[limits]\nconcurrency = 2\ninstances = 3\n"
        node.fildes("publish", str(write_program(above, "crowd", HOLD, limits)))
        node.fildes("publish", str(write_program(above, "ready", HOLD, "[limits]\nspares = 1\ninstances = 2\n")))
        yield node
        assert "Traceback" not in node.output(), node.output()


def state(node: Node, service: str) -> dict[str, Any]:
    [found] = json.loads(node.fildes("ps", service, "--json").stdout)["services"]
    return found


def pids(node: Node, service: str) -> set[int]:
    """Of those that the kernel has told us of: one that was just started has said nothing yet."""
    return {instance["pid"] for instance in state(node, service)["instances"] if instance["pid"] is not None}


class Guest:
    """A request that takes until its instance is told to let go."""

    def __init__(self, node: Node, service: str, path: str = "/stay") -> None:
        self._socket = socket.create_connection(node.addresses[0], 10)
        head = f"GET {path} HTTP/1.1\r\nHost: {service}.localhost\r\nConnection: close\r\n\r\n"
        self._socket.sendall(head.encode())

    def leaves(self) -> int:
        """The process that answered, by its own number."""
        answer = b""
        while data := self._socket.recv(4096):
            answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), answer
        return int(body)

    def answered(self) -> bool:
        self._socket.setblocking(False)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self._socket.settimeout(10)

    def close(self) -> None:
        self._socket.close()


def guests_of(node: Node, service: str, number: int, stack: contextlib.ExitStack) -> list[Guest]:
    """One after the other: those that the door accepts together go to one instance together."""
    guests = []
    for _ in range(number):
        guests.append(stack.enter_context(contextlib.closing(Guest(node, service))))
        ask(node, "ready")
    return guests


def ask(node: Node, service: str) -> int:
    with contextlib.closing(Guest(node, service, "/")) as guest:
        return guest.leaves()


def let_go(node: Node, service: str) -> None:
    for pid in pids(node, service):
        os.kill(pid, signal.SIGUSR1)


def test_a_crowd_is_met_by_more_instances_up_to_the_limit(crowded: Node) -> None:
    with contextlib.ExitStack() as stack:
        guests = guests_of(crowded, "crowd", 8, stack)
        eventually(lambda: len(state(crowded, "crowd")["instances"]) == 3, what="three instances")
        # Six are in them, two wait for whoever has room first.
        let_go(crowded, "crowd")
        answers = [guest.leaves() for guest in guests]
        assert len(set(answers)) == 3
        assert len(answers) == 8
    found = state(crowded, "crowd")
    assert len(found["instances"]) == found["most"] == 3
    assert found["crashes"] == 0
    eventually(
        lambda: {one["stage"] for one in state(crowded, "crowd")["instances"]} == {"open"}, what="they are open again"
    )


def test_all_of_a_crowd_live_through_the_death_of_the_orchestrator(crowded: Node) -> None:
    crowded.fildes("stop", "crowd")
    crashes = state(crowded, "crowd")["crashes"]
    with contextlib.ExitStack() as stack:
        guests = guests_of(crowded, "crowd", 4, stack)
        before = eventually(lambda: len(found := pids(crowded, "crowd")) == 2 and found, what="two instances")
        crowded.kill("orchestrator")
        eventually(lambda: pids(crowded, "crowd") == before, what="they are known again")
        # The new one was told that both are full, and goes on from there.
        guests += guests_of(crowded, "crowd", 2, stack)
        eventually(lambda: len(pids(crowded, "crowd")) == 3, what="a third instance")
        let_go(crowded, "crowd")
        assert len({guest.leaves() for guest in guests}) == 3
    assert before < pids(crowded, "crowd")
    assert state(crowded, "crowd")["crashes"] == crashes


def test_one_of_several_dies_alone(crowded: Node) -> None:
    crowded.fildes("stop", "crowd")
    crashes = state(crowded, "crowd")["crashes"]
    with contextlib.ExitStack() as stack:
        guests = guests_of(crowded, "crowd", 4, stack)
        before = eventually(lambda: len(found := pids(crowded, "crowd")) == 2 and found, what="two instances")
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in pids(crowded, "crowd"), what="it is missed")
        let_go(crowded, "crowd")
        answers = []
        for guest in guests:
            with contextlib.suppress(OSError, AssertionError):
                answers.append(guest.leaves())
        assert len(answers) == 2  # the other's
    assert state(crowded, "crowd")["crashes"] == crashes + 1
    assert state(crowded, "crowd")["state"] == "running"


def test_spares_stand_by_and_are_replaced(crowded: Node) -> None:
    [first] = pids(crowded, "ready")
    assert state(crowded, "ready")["spares"] == 1
    os.kill(first, signal.SIGKILL)
    second = eventually(lambda: (pids(crowded, "ready") - {first}) or None, what="another one stands by")
    crowded.kill("orchestrator")
    eventually(lambda: pids(crowded, "ready") == second, what="it is known again")
    crowded.fildes("stop", "ready")
    assert pids(crowded, "ready") == set()
    assert ask(crowded, "ready") > 0  # the next request ends the rest
    eventually(lambda: len(pids(crowded, "ready")) == 1, what="it stands by again")


def cpu_ticks(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


def test_frozen_and_thawed(crowded: Node) -> None:
    ask(crowded, "crowd")
    before = pids(crowded, "crowd")
    crowded.fildes("freeze", "crowd")
    found = state(crowded, "crowd")
    assert found["state"] == "frozen" and "fildes thaw crowd" in found["note"]
    with contextlib.closing(Guest(crowded, "crowd", "/")) as guest:
        crowded.kill("orchestrator")
        eventually(lambda: state(crowded, "crowd")["state"] == "frozen", what="it is frozen still")
        assert pids(crowded, "crowd") == before
        ticks = [cpu_ticks(pid) for pid in before]
        crowded.fildes("stop", "ready")  # something else goes on meanwhile
        assert ask(crowded, "ready") > 0
        assert [cpu_ticks(pid) for pid in before] == ticks
        assert not guest.answered()
        crowded.fildes("thaw", "crowd")
        assert guest.leaves() > 0
    assert pids(crowded, "crowd") == before
    assert state(crowded, "crowd")["state"] == "running"


def test_what_is_frozen_can_be_stopped_replaced_and_removed(crowded: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "cold", HOLD)
    crowded.fildes("publish", str(folder))
    ask(crowded, "cold")
    [first] = pids(crowded, "cold")
    crowded.fildes("freeze", "cold")
    assert crowded.fildes("stop", "cold").stdout.startswith("cold: 1 instance ended")
    ask(crowded, "cold")
    [second] = pids(crowded, "cold")
    assert second != first
    crowded.fildes("freeze", "cold")
    (folder / "more.py").write_text("")
    crowded.fildes("publish", str(folder))
    ask(crowded, "cold")
    assert not pids(crowded, "cold") & {first, second}
    eventually(lambda: not Path(f"/proc/{second}").exists(), what="the frozen one has ended")
    crowded.fildes("freeze", "cold")
    crowded.fildes("rm", "cold")
    refused = crowded.fildes("thaw", "cold", check=False)
    assert refused.returncode == 1 and "no service 'cold'" in refused.stderr


def test_what_drains_lives_through_two_deaths_of_the_orchestrator(crowded: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "leaving", HOLD)
    crowded.fildes("publish", str(folder))
    with contextlib.closing(Guest(crowded, "leaving")) as guest:
        eventually(lambda: pids(crowded, "leaving"), what="it runs")
        [old] = pids(crowded, "leaving")
        zygote = state(crowded, "leaving")["zygote"]
        (folder / "more.py").write_text("")
        crowded.fildes("publish", str(folder))
        for _ in range(2):
            crowded.kill("orchestrator")
            eventually(lambda: state(crowded, "leaving")["state"], what="it is back")
        assert old not in pids(crowded, "leaving") and Path(f"/proc/{old}").exists()
        assert not guest.answered()
        os.kill(old, signal.SIGUSR1)
        assert guest.leaves() > 0
    eventually(lambda: not Path(f"/proc/{old}").exists(), what="it ends when it has finished")
    os.kill(zygote, signal.SIGKILL)  # else it waits for the end of its time
    crowded.fildes("rm", "leaving")


def test_a_load_that_is_stopped_ends_at_once_and_leaves_nothing(crowded: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "endless", "import os\nif os.path.exists('/app/later.py'): pass\n")
    crowded.fildes("publish", str(folder))
    crowded.fildes("stop", "endless")
    crowded.fildes("stop", "endless")
    assert state(crowded, "endless")["zygote"] is None
    groups = release_groups(crowded)
    (folder / "main.py").write_text("while True: pass\n")
    words = [sys.executable, "-m", "fildes.cli", "publish", str(folder)]
    environment = {**os.environ, "FILDES_STATE": str(crowded.state)}
    before = children(crowded)
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as publish:
        [loading] = eventually(lambda: children(crowded) - before, what="it loads")
        crowded.fildes("stop", "endless", timeout=20)
        eventually(lambda: not Path(f"/proc/{loading}").exists(), 5, "its end")
        publish.communicate(timeout=20)
        assert publish.returncode == 1
    eventually(lambda: release_groups(crowded) <= groups, 5, "no cgroup is left")
    crowded.fildes("rm", "endless")


def children(node: Node) -> set[int]:
    """init's, but for the daemons."""
    listed = Path(f"/proc/{node.init}/task/{node.init}/children").read_text().split()
    return {int(pid) for pid in listed} - set(node.daemons().values())


def release_groups(node: Node) -> set[str]:
    """The cgroups of this node's releases; none where it can make none."""
    zygote = state(node, "ready")["zygote"]
    for line in Path(f"/proc/{zygote}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "/services/" not in path:
            continue
        for mount in (Path("/sys/fs/cgroup", controllers), Path("/sys/fs/cgroup")):
            services = Path(f"{mount}{path.partition('/services/')[0]}/services")
            if services.is_dir():
                return {child.name for child in services.iterdir() if child.is_dir()}
    return set()
