"""What `fildes up` says to a service manager (sd_notify(3)), from its start to its end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fildes.testing import Node

Puppets = Callable[..., tuple[Node, object]]


@pytest.fixture
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What NOTIFY_SOCKET says, and the socket that is there."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@fildes-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(10)
        yield name, sock


def hear(sock: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in sock.recv(4096).decode().splitlines())


@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
def test_the_manager_hears_of_start_upgrade_and_end(puppets: Puppets, manager: tuple[str, socket.socket]) -> None:
    name, sock = manager
    node, _ = puppets(environment={"NOTIFY_SOCKET": name})
    [(host, port)] = node.addresses
    assert hear(sock) == {"READY": "1", "STATUS": f"serving on http://{host}:{port}"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    os.kill(node.pid, signal.SIGHUP)
    said = hear(sock)
    assert said.pop("RELOADING") == "1"
    assert before <= int(said.pop("MONOTONIC_USEC")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert said == {}
    assert hear(sock)["READY"] == "1"
    assert "upgraded: every daemon runs the new code" in node.output()
    node.stop()
    assert hear(sock)["STOPPING"] == "1"


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_an_upgrade_that_fails_is_over_too(puppets: Puppets, manager: tuple[str, socket.socket], copy: Path) -> None:
    name, sock = manager
    node, _ = puppets(folder=copy, environment={"NOTIFY_SOCKET": name})
    assert hear(sock)["READY"] == "1"
    (copy / "fildes/init/supervisor.py").write_text("this is no Python\n")
    os.kill(node.pid, signal.SIGHUP)
    assert hear(sock)["RELOADING"] == "1"
    assert hear(sock)["READY"] == "1"
    assert "not upgraded" in node.output()


def test_a_manager_that_is_gone_is_nobodys_trouble(puppets: Puppets, tmp_path: Path) -> None:
    node, _ = puppets(environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert node.stop() < 8
