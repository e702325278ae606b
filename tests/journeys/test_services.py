"""Programs of runtime `service`: one instance, always, until somebody stops it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.testing import Node, eventually

PATIENT = """
def main(caps):
    while not caps.wait(3600):
        pass
"""


@pytest.fixture(scope="module")
def steady() -> Iterator[Node]:
    with Node() as node:
        yield node
        assert "Traceback" not in node.output(), node.output()


def write(above: Path, name: str, source: str = PATIENT) -> Path:
    folder = above / name
    folder.mkdir(exist_ok=True)
    (folder / "work.py").write_text(source)
    (folder / "fildes.toml").write_text(f'name = "{name}"\nruntime = "service"\nentry = "work:main"\n')
    return folder


def state(node: Node, service: str) -> dict[str, Any]:
    [found] = json.loads(node.fildes("ps", service, "--json").stdout)["services"]
    return found


def running(node: Node, service: str) -> int | None:
    """The pid of its instance, when it has begun."""
    found = [one["pid"] for one in state(node, service)["instances"] if one["stage"] == "open"]
    return found[0] if found else None


def test_it_runs_until_it_is_stopped_whatever_happens(steady: Node, tmp_path: Path) -> None:
    steady.fildes("publish", str(write(tmp_path, "worker")))
    first = running(steady, "worker")
    assert first is not None and state(steady, "worker")["most"] == 1
    os.kill(first, signal.SIGKILL)
    second = eventually(
        lambda: running(steady, "worker") not in (None, first) and running(steady, "worker"), what="new"
    )
    steady.kill("orchestrator")
    eventually(lambda: running(steady, "worker") == second, what="it is known again")
    os.kill(state(steady, "worker")["zygote"], signal.SIGKILL)
    eventually(lambda: running(steady, "worker") not in (None, second), what="it was loaded again")

    steady.fildes("stop", "worker")
    assert state(steady, "worker")["state"] == "stopped"
    assert "fildes start worker" in state(steady, "worker")["note"]
    steady.kill("orchestrator")
    eventually(lambda: state(steady, "worker")["state"] == "stopped", what="it stays so")
    steady.stop()
    steady.start()
    assert state(steady, "worker")["state"] == "stopped" and not state(steady, "worker")["instances"]
    assert "worker: serves, 1 instance" in steady.fildes("start", "worker").stdout
    assert running(steady, "worker") is not None


def test_it_runs_when_the_node_starts(steady: Node, tmp_path: Path) -> None:
    for number in range(2):
        steady.fildes("publish", str(write(tmp_path, f"early-{number}")))
    steady.stop()
    steady.start()
    for number in range(2):
        eventually(lambda number=number: running(steady, f"early-{number}"), 20, "it runs without being asked")
        steady.fildes("rm", f"early-{number}")


def test_a_new_release_takes_the_place_of_the_old(steady: Node, tmp_path: Path) -> None:
    folder = write(tmp_path, "again")
    steady.fildes("publish", str(folder))
    old = running(steady, "again")
    assert old is not None
    steady.fildes("stop", "again")
    (folder / "more.py").write_text("")
    steady.fildes("publish", str(folder))  # which ends the stop
    new = eventually(lambda: running(steady, "again"), what="the new one runs")
    (folder / "more.py").write_text("#")
    steady.fildes("publish", str(folder))
    eventually(lambda: not Path(f"/proc/{new}").exists(), what="the end of the old one")
    assert running(steady, "again") not in (None, old, new)


def test_one_that_never_works_is_halted_and_says_why(steady: Node, tmp_path: Path) -> None:
    folder = write(tmp_path, "broken", "import os\n\ndef main(caps):\n    os._exit(7)\n")
    steady.fildes("publish", str(folder), check=False)
    (folder / "work.py").write_text(PATIENT)
    steady.fildes("publish", str(folder))
    assert running(steady, "broken") is not None
    (folder / "work.py").write_text("import time\n\ndef main(caps):\n    time.sleep(0.3)\n    raise SystemExit(7)\n")
    steady.fildes("publish", str(folder))
    found = eventually(
        lambda: (now := state(steady, "broken"))["state"] == "halted" and now, 20, "it is not started for ever"
    )
    assert "status 7" in found["note"] and "fildes start broken" in found["note"]
    assert found["crashes"] >= 6
    steady.kill("orchestrator")
    eventually(lambda: state(steady, "broken")["zygote"] is None, what="it is back")
    steady.fildes("rm", "broken")


def test_one_that_returns_is_done(steady: Node, tmp_path: Path) -> None:
    steady.fildes("publish", str(write(tmp_path, "once", "def main(caps):\n    print('once')\n")))
    found = eventually(lambda: (now := state(steady, "once"))["state"] == "done" and now, what="it is done")
    assert "fildes start once" in found["note"] and not found["instances"] and not found["crashes"]
    steady.kill("orchestrator")
    eventually(lambda: state(steady, "once")["state"] == "done", what="it is still")
    steady.fildes("start", "once")
    eventually(lambda: state(steady, "once")["state"] == "done", what="it is done again")
    assert steady.fildes("logs", "once").stdout.count("once") == 2
