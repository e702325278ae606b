"""kill -9 of every daemon under load: no connection of an instance breaks, nothing queued is lost, the rest resumes.

The one exception that is stated: a connection that the door was accepting, or whose head it had not finished reading,
ends with the door. The load counts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from websockets.sync.client import connect as websocket

from fildes.testing import Node, eventually, write_program

NAMES = [
    *("log", "shared", "net", "storage", "inspect", "catalogue"),
    *("bus", "orchestrator", "static", "web", "publish", "debug"),
]
BACK = 3.0  # seconds within which new connections are answered again, on two busy cores

PROGRAM = """
import os

old = app

async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return await old(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})

async def act(path):
    return os.getpid() if path == "/pid" else "ok"
"""
KEPT, NEW = 4, 2  # clients of each sort


def get(path: str = "/", host: str = "busy") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}.localhost\r\n\r\n".encode()


class Load:
    """Clients that keep their connections, clients that make new ones, and a WebSocket, until the end of the block."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._over = threading.Event()
        self.broken: list[str] = []  # connections that an instance owned
        self.failed: list[float] = []  # new connections: when they were begun
        self.answered: list[tuple[float, float]] = []  # new connections: begun, answered
        self.kept = self.echoed = 0
        work = [*[self._keep] * KEPT, *[self._anew] * NEW, self._echo]
        self._threads = [threading.Thread(target=self._guard, args=(job,)) for job in work]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.kept > 2 * KEPT and len(self.answered) > NEW and self.echoed > 2, what="load")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(15)

    def _guard(self, job: Any) -> None:
        try:
            job()
        except Exception as error:  # whatever it is, it belongs into the report
            self.broken.append(f"{job.__name__}: {type(error).__name__}: {error}")

    def _keep(self) -> None:
        with socket.create_connection(self._node.addresses[0], 10) as sock:
            while not self._over.wait(0.003):
                sock.sendall(get())
                answer = sock.recv(4096)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(f"got {answer[:80]!r}")
                self.kept += 1

    def _anew(self) -> None:
        while not self._over.wait(0.003):
            began = time.monotonic()
            try:
                with socket.create_connection(self._node.addresses[0], 10) as sock:
                    sock.sendall(get())
                    answer = sock.recv(4096)
            except OSError:
                answer = b""
            if answer.startswith(b"HTTP/1.1 200"):
                self.answered.append((began, time.monotonic()))
            else:
                self.failed.append(began)

    def _echo(self) -> None:
        host, port = self._node.addresses[0]
        with (
            socket.create_connection((host, port), 10) as sock,
            websocket(f"ws://busy.localhost:{port}/", sock=sock, proxy=None) as ws,
        ):
            while not self._over.wait(0.01):
                ws.send(f"{self.echoed}")
                if ws.recv(timeout=10) != f"{self.echoed}":
                    raise ConnectionError("another echo")
                self.echoed += 1


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    above = tmp_path_factory.mktemp("busy")
    with Node(arguments=["--load-limit", "10"]) as node:
        node.fildes("publish", str(write_program(above, "busy", PROGRAM)))
        node.fildes("publish", str(write_program(above, "slow", "import time\ntime.sleep(0.8)\n" + PROGRAM)))
        (above / "pages").mkdir()
        (above / "pages" / "index.html").write_text("ok")
        node.fildes("publish", str(above / "pages"), "--name", "pages")
        yield node


def status_of(node: Node, service: str) -> dict[str, Any]:
    [found] = json.loads(node.fildes("ps", service, "--json").stdout)["services"]
    return found


def restarted(node: Node, name: str, old: int) -> None:
    eventually(lambda: node.daemons().get(name, old) != old, 5, f"{name} is back")


def ask(node: Node, service: str, path: str = "/") -> bytes:
    return node.request(path, host=f"{service}.localhost").body


@pytest.mark.parametrize("name", NAMES)
def test_kill_9_under_load(busy: Node, name: str, record_property: Any) -> None:
    descriptors = len(os.listdir(f"/proc/{busy.init}/fd"))
    pid = ask(busy, "busy", "/pid")
    with Load(busy) as load:
        killed = time.monotonic()
        old = busy.kill(name)
        restarted(busy, name, old)
        eventually(lambda: any(began > killed for began, _ in load.answered), 10, "new connections")
        kept, echoed, anew = load.kept, load.echoed, len(load.answered)
        done = load.answered
        eventually(lambda: load.kept > kept + 50 and load.echoed > echoed + 5 and len(done) > anew + 20, 15, "load")
    assert load.broken == []
    resumed = min(end for began, end in load.answered if began > killed) - killed
    longest = max(end - began for began, end in load.answered)
    record_property("resumed", round(resumed, 3))
    print(f"{name}: resumed after {resumed * 1e3:.0f} ms, longest {longest * 1e3:.0f} ms, failed {len(load.failed)}")
    assert resumed < BACK and longest < BACK
    assert len(load.failed) <= (NEW if name == "web" else 0)
    assert ask(busy, "busy", "/pid") == pid  # the same instance
    assert ask(busy, "pages") == b"ok"
    assert busy.fildes("ps", "--all", timeout=10).returncode == 0
    eventually(lambda: abs(len(os.listdir(f"/proc/{busy.init}/fd")) - descriptors) <= 2, 5, "init's descriptors")


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        *((name, "upload") for name in NAMES),
        *((name, "pack") for name in ("bus", "catalogue", "orchestrator", "publish")),
    ],
)
def test_kill_9_in_the_middle_of_a_publish(busy: Node, tmp_path: Path, name: str, phase: str) -> None:
    """It ends well or with a sentence; the next one is well, and nobody else noticed."""
    folder = write_program(tmp_path, "victim", f"import time\ntime.sleep(0.2)\nNAME = {name!r}\n")
    words = [sys.executable, "-m", "fildes.cli", "publish", str(folder)]
    environment = {**os.environ, "FILDES_STATE": str(busy.state)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.stdout and (line := process.stdout.readline()) and not line.startswith(phase):
                pass
            old = busy.kill(name)  # that phase is over
            out, errors = process.communicate(timeout=40)
        except BaseException:
            process.kill()
            raise
    assert process.returncode in (0, 1)
    assert "Traceback" not in errors and (process.returncode == 0 or errors.startswith("fildes: ")), errors
    print(f"{name} after {phase}: {errors.strip() or out.splitlines()[-2:]}")
    restarted(busy, name, old)
    began = time.monotonic()
    again = busy.fildes("publish", str(folder), timeout=20)
    assert "victim: " in again.stdout
    assert time.monotonic() - began < 10
    assert ask(busy, "victim") == b"ok"
    releases = json.loads(busy.fildes("releases", "victim", "--json").stdout)["releases"]
    assert [release["state"] for release in releases].count("current") == 1
    assert "candidate" not in [release["state"] for release in releases]
    busy.fildes("rm", "victim")
    assert ask(busy, "busy") == b"ok"


@pytest.mark.parametrize("names", [["web"], ["orchestrator"], ["web", "orchestrator", "bus", "catalogue"]])
def test_nothing_queued_is_lost(busy: Node, names: list[str]) -> None:
    """Connections that wait for a program that loads: all are answered, whoever is killed meanwhile."""
    os.kill(status_of(busy, "slow")["zygote"] or 0, signal.SIGKILL)
    eventually(lambda: status_of(busy, "slow")["zygote"] is None, what="it sleeps")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(busy.addresses[0], 10)) for _ in range(40)]
        for sock in clients:
            sock.sendall(get(host="slow"))
        eventually(lambda: status_of(busy, "slow")["state"] != "asleep", what="the first of them has come")
        # The door hands over before it turns to its next client.
        assert ask(busy, "busy") == b"ok"
        olds = {name: busy.kill(name) for name in names}
        answers = [sock.recv(4096)[:12] for sock in clients]
        assert answers == [b"HTTP/1.1 200"] * len(clients)
    for name, old in olds.items():
        restarted(busy, name, old)


def test_kill_9_of_the_orchestrator_while_an_instance_runs(busy: Node) -> None:
    pid = ask(busy, "busy", "/pid")
    found = status_of(busy, "busy")["instances"][0]["pid"]
    restarted(busy, "orchestrator", busy.kill("orchestrator"))
    assert status_of(busy, "busy")["instances"][0]["pid"] == found
    assert ask(busy, "busy", "/pid") == pid
    # Its end is still noticed, and answered.
    os.kill(found, signal.SIGKILL)
    assert ask(busy, "busy", "/pid") != pid
    assert status_of(busy, "busy")["crashes"] == 1


def test_an_instance_that_dies_while_there_is_no_orchestrator(busy: Node) -> None:
    pid = ask(busy, "busy", "/pid")
    found = status_of(busy, "busy")
    busy.kill("orchestrator")
    os.kill(found["instances"][0]["pid"], signal.SIGKILL)
    assert ask(busy, "busy", "/pid") != pid
    assert status_of(busy, "busy")["zygote"] == found["zygote"]


def test_kill_9_of_the_orchestrator_while_a_zygote_is_warm(busy: Node) -> None:
    busy.fildes("stop", "busy")
    zygote = status_of(busy, "busy")["zygote"]
    busy.kill("orchestrator")
    began = time.monotonic()
    assert ask(busy, "busy") == b"ok"
    assert time.monotonic() - began < BACK
    assert status_of(busy, "busy")["zygote"] == zygote


def test_both_die(busy: Node) -> None:
    busy.fildes("stop", "busy")
    zygote = status_of(busy, "busy")["zygote"]
    os.kill(zygote, signal.SIGKILL)
    busy.kill("orchestrator")
    began = time.monotonic()
    assert ask(busy, "busy") == b"ok"
    assert time.monotonic() - began < BACK
    assert status_of(busy, "busy")["zygote"] not in (None, zygote)


def test_kill_9_of_the_orchestrator_while_a_zygote_loads(busy: Node) -> None:
    """What loads can't go on without its warden: it ends, also one that would go on for ever, and loads anew."""
    os.kill(status_of(busy, "slow")["zygote"] or 0, signal.SIGKILL)
    eventually(lambda: status_of(busy, "slow")["zygote"] is None, what="it sleeps")
    before = children(busy)
    with socket.create_connection(busy.addresses[0], 10) as sock:
        sock.sendall(get(host="slow"))
        loading = eventually(lambda: children(busy) - before, what="a zygote is born")
        eventually(lambda: cpu_seconds(*loading) > 0.05, what="it loads")
        busy.kill("orchestrator")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    eventually(lambda: not loading & children(busy), 5, "the first one is gone")


def children(node: Node) -> set[int]:
    """init's, but for the daemons."""
    listed = Path(f"/proc/{node.init}/task/{node.init}/children").read_text().split()
    return {int(pid) for pid in listed} - set(node.daemons().values())


def test_what_loads_for_ever_is_ended_by_the_next_orchestrator(busy: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "endless", "while True: pass\n")
    before = children(busy)
    words = [sys.executable, "-m", "fildes.cli", "publish", str(folder)]
    with subprocess.Popen(
        words, env={**os.environ, "FILDES_STATE": str(busy.state)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        [loading] = eventually(lambda: children(busy) - before, what="a zygote is born")
        eventually(lambda: cpu_seconds(loading) > 0.3, what="it is in the program")
        process.kill()  # the publisher does not wait
        busy.kill("orchestrator")
        eventually(lambda: loading not in children(busy), 5, "it is gone")
    eventually(lambda: children(busy) <= before, 15, "so is the next attempt of it")


def cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
