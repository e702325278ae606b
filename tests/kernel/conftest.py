"""Nodes of small real daemons (puppets/puppet.py), for tests of init."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fildes
from fildes.kernel.fds import Fd, close_all, receive_with_fds, send_with_fds
from fildes.testing import Node

PUPPETS = Path(__file__).parent / "puppets"


class Door:
    """Tells puppets what to do, and hears what they answer."""

    def __init__(self, node: Node) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(node.state / "control"))

    def send(self, to: str, do: str, *fds: int, **order: Any) -> None:
        send_with_fds(self.socket.fileno(), json.dumps({"to": to, "do": do, **order}).encode(), fds)

    def hear(self) -> tuple[dict[str, Any], list[Fd]]:
        self.socket.setblocking(True)
        received = receive_with_fds(self.socket.fileno())
        return json.loads(received.data), received.fds

    def ask(self, to: str, do: str, *fds: int, **order: Any) -> dict[str, Any]:
        self.send(to, do, *fds, **order)
        answer, came = self.hear()
        close_all(came)
        return answer


@pytest.fixture
def puppets(start_node: Callable[..., Node]) -> Iterator[Callable[..., tuple[Node, Door]]]:
    """`puppets("TABLE", …)`: a node with these daemons, and its door."""
    doors = []

    def start(table: str = "TABLE", folder: Path = PUPPETS, **options: Any) -> tuple[Node, Door]:
        environment = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
        environment |= options.pop("environment", {})
        node = start_node(arguments=["--table", f"puppet:{table}"], environment=environment, **options)
        doors.append(Door(node))
        return node, doors[-1]

    yield start
    for door in doors:
        door.socket.close()


Puppets = Callable[..., tuple[Node, Door]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of Fildes and the puppets that a test may change."""
    folder = tmp_path / "code"
    shutil.copytree(Path(fildes.__file__).parent, folder / "fildes", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PUPPETS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def fds_of(pid: int) -> int:
    """How many descriptors a process has; the node's own are not dumpable, so only root sees that."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        pytest.skip("needs root: to look into a process that is not dumpable")


class Unprivileged:
    """How to run Fildes as an ordinary user: ourselves, or nobody with a copy of the code that nobody can read."""

    def __init__(self, folder: Path) -> None:
        self.launcher_prefix: list[str] | None = None
        self.options: dict[str, Any] = {"folder": PUPPETS}
        self.python = [sys.executable, "-m", "fildes.cli"]
        self.uid = os.geteuid()
        if self.uid != 0:
            return
        self.uid = 65534
        folder.chmod(0o755)
        for source, name in ((Path(fildes.__file__).parent, "fildes"), (PUPPETS, ".")):
            shutil.copytree(source, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        state = folder / "state"
        state.mkdir()
        os.chown(state, self.uid, self.uid)
        self.launcher_prefix = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--"]
        self.python = [_public_python(), "-m", "fildes.cli"]
        self.options = {"folder": folder, "state": state, "launcher": [*self.launcher_prefix, *self.python]}


def _public_python() -> str:
    """An interpreter of version 3.11 or newer that everybody may run."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        check = [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if os.path.exists(candidate) and subprocess.run(check, check=False).returncode == 0:
            return candidate
    pytest.skip("needs a Python of version 3.11 or newer that every user may run")


@pytest.fixture
def unprivileged() -> Iterator[Unprivileged]:
    # Not in tmp_path, which only we may enter.
    with tempfile.TemporaryDirectory(prefix="fildes-test-") as folder:
        yield Unprivileged(Path(folder))
