"""A warm service has a process that waits to be its next instance: whatever becomes of that, requests are answered."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.testing import Node, eventually, write_program

WHO = """
import os

async def act(path):
    return f"{os.getpid()}"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node() as node:
        node.fildes("publish", str(write_program(tmp_path_factory.mktemp("ahead"), "ahead", WHO)))
        yield node
        assert "Traceback" not in node.output(), node.output()


def state(node: Node) -> dict[str, Any]:
    [found] = json.loads(node.fildes("ps", "ahead", "--json").stdout)["services"]
    return found


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def waiting(node: Node) -> int:
    """The process that waits, of a service that has no instance now."""
    assert node.request("/", host="ahead.localhost").status == 200
    node.fildes("stop", "ahead")

    def found() -> int:
        now = state(node)
        one = children(now["zygote"]) if now["zygote"] and not now["instances"] else []
        return one[0] if len(one) == 1 and _confined(one[0]) else 0

    return eventually(found, what="a process that waits")


def _confined(pid: int) -> bool:
    """Behind the instance's filter too, which comes on top of the zygote's."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    parent = dict(line.split(":", 1) for line in Path(f"/proc/{int(lines['PPid'])}/status").read_text().splitlines())
    return int(lines["Seccomp_filters"]) == int(parent["Seccomp_filters"]) + 1


def test_it_becomes_the_next_instance(node: Node) -> None:
    pid = waiting(node)
    starts = state(node)["starts"]
    assert node.request("/", host="ahead.localhost").status == 200
    now = state(node)
    assert [one["pid"] for one in now["instances"]] == [pid] and now["starts"] == starts + 1
    # One instance is all that this service may have: nobody waits beside it.
    assert children(now["zygote"]) == [pid]


def test_when_it_was_killed_another_one_answers(node: Node) -> None:
    pid = waiting(node)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="its end")
    assert node.request("/", host="ahead.localhost").status == 200
    now = state(node)
    assert [one["pid"] for one in now["instances"]] != [pid] and len(now["instances"]) == 1 and not now["crashes"]


def test_the_next_orchestrator_has_another_one(node: Node) -> None:
    pid = waiting(node)
    before = node.daemons()["orchestrator"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: node.daemons().get("orchestrator", before) != before, what="another orchestrator")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the one that waited")
    assert waiting(node) != pid
    assert node.request("/", host="ahead.localhost").status == 200


def test_when_the_service_goes_it_goes(node: Node) -> None:
    pid = waiting(node)
    node.fildes("rm", "ahead")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="its end")
