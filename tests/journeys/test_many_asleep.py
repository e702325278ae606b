"""Ten thousand services that sleep cost the orchestrator next to nothing, and nobody else notices them."""

from __future__ import annotations

import json
from pathlib import Path

from fildes.testing import Node, write_program
from fildes.testing.many import copies

MANY = 10_000
EACH = 1024  # bytes


def private(pid: int) -> int:
    """Bytes that are a process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def test_ten_thousand_asleep(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Node(state) as node:
        node.fildes("publish", str(write_program(tmp_path, "one")))
        few = private(node.daemons()["orchestrator"])  # which has loaded a program
    names = copies(state, "one", MANY)
    with Node(state) as node:
        assert private(node.daemons()["orchestrator"]) - few < MANY * EACH
        assert node.request("/", host=f"{names[-1]}.localhost").body == b"ok"
        shown = node.fildes("ps").stdout
        assert names[-1] in shown and f"and {MANY - 500} more" in shown
        services = json.loads(node.fildes("ps", "--json").stdout)["services"]
        assert {service["service"] for service in services} == {"one", *names}
        [found] = json.loads(node.fildes("ps", names[7], "--json").stdout)["services"]
        assert found["state"] == "asleep" and found["most"] == 1 and not found["instances"]
