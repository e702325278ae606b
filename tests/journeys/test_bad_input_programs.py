"""Programs that misbehave: who publishes one gets a sentence, its clients an answer, everybody else nothing of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.testing import Node, eventually, write_program

LIMIT = 3.0  # seconds: what the shared node gives a program to load

WILD = """
import ctypes, os, threading

async def act(path):
    if path == "/pid":
        return os.getpid()
    if path == "/raise":
        raise ValueError("oh no")
    if path == "/exit":
        os._exit(5)
    if path == "/sys.exit":
        raise SystemExit(6)
    if path == "/abort":
        os.abort()
    if path == "/segfault":
        ctypes.string_at(0)
    if path == "/fork":
        try:
            return f"forked {os.fork()}"
        except OSError as error:
            return f"{type(error).__name__}: {error}"
    if path == "/allocate":
        kept = []
        while True:
            kept.append(bytearray(1 << 20))
    if path == "/threads":
        wait = threading.Event()
        try:
            for count in range(1000):
                threading.Thread(target=wait.wait, daemon=True).start()
        except RuntimeError as error:
            return f"{count} threads, then {error}"
        finally:
            wait.set()
    if path == "/spin":
        while True:
            pass
    return "ok"
"""

DIES = ("/exit", "/sys.exit", "/abort", "/segfault")


def state(node: Node, service: str) -> dict[str, Any]:
    [found] = json.loads(node.fildes("ps", service, "--json").stdout)["services"]
    return found


def ask(node: Node, service: str, path: str = "/", timeout: float = 10.0) -> tuple[int, str]:
    answer = node.request(path, host=f"{service}.localhost", timeout=timeout)
    return answer.status, answer.body.decode()


def refused(node: Node, folder: Path) -> str:
    """The sentence of a publish that fails; nothing of the service stays."""
    done = node.fildes("publish", str(folder), check=False, timeout=20)
    assert done.returncode == 1, done.stdout
    names = {service["service"] for service in json.loads(node.fildes("ps", "--json").stdout)["services"]}
    assert folder.name not in names
    return done.stderr


@pytest.fixture(scope="module")
def calm(house: Node, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The shared node, with a service whose clients must notice nothing."""
    house.fildes("publish", str(write_program(tmp_path_factory.mktemp("calm"), "calm")))
    return house


@pytest.fixture(autouse=True)
def undisturbed(calm: Node) -> Iterator[None]:
    pid = state(calm, "calm")["instances"][0]["pid"] if ask(calm, "calm") else 0
    yield
    assert ask(calm, "calm") == (200, "ok")
    assert state(calm, "calm")["instances"][0]["pid"] == pid


@pytest.fixture(scope="module")
def wild(calm: Node, tmp_path_factory: pytest.TempPathFactory) -> Node:
    limits = '[limits]\nmemory = "64MiB"\ncpu = 0.3\ntasks = 16\n'
    calm.fildes("publish", str(write_program(tmp_path_factory.mktemp("wild"), "wild", WILD, limits)))
    return calm


# — while it loads —


def test_an_error_at_import_names_the_line(calm: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "raiser", "import nothing_of_the_kind\n")
    line = len((folder / "main.py").read_text().splitlines())
    text = refused(calm, folder)
    assert f"ModuleNotFoundError: No module named 'nothing_of_the_kind' (at main.py, line {line})" in text


def test_a_syntax_error(calm: Node, tmp_path: Path) -> None:
    assert "SyntaxError" in refused(calm, write_program(tmp_path, "typo", "def def\n"))


def test_an_entry_that_is_not_there(calm: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "nobody", "del app\n")
    assert "app" in refused(calm, folder)


@pytest.mark.parametrize("source", ["import time\nwhile True: time.sleep(1)", "while True: pass"])
def test_it_never_finishes_loading(calm: Node, tmp_path: Path, source: str) -> None:
    began = time.monotonic()
    text = refused(calm, write_program(tmp_path, "endless", source))
    assert f"did not finish loading within {LIMIT:g} s" in text
    assert LIMIT <= time.monotonic() - began < LIMIT + 10


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "it exited with status 3"),
        ("import os; os.abort()", "it was killed by SIG"),
        ("import ctypes; ctypes.string_at(0)", "it was killed by SIGSEGV"),
    ],
)
def test_it_ends_while_it_loads(calm: Node, tmp_path: Path, source: str, words: str) -> None:
    text = refused(calm, write_program(tmp_path, "brief", f"print('famous last words', flush=True)\n{source}"))
    assert words in text
    if "fildes logs brief" in text:  # then that must work
        eventually(lambda: "famous last words" in calm.fildes("logs", "brief").stdout)


def test_it_ends_when_it_starts(calm: Node, tmp_path: Path) -> None:
    source = """
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
    """
    text = refused(calm, write_program(tmp_path, "starter", source))
    assert "starter did not start" in text and "fildes logs starter" in text
    eventually(lambda: "starter can't start: no database" in calm.fildes("logs", "starter").stdout)


def test_it_takes_too_much_memory_while_it_loads(calm: Node, tmp_path: Path) -> None:
    source = "kept = []\nwhile True: kept.append(bytearray(1 << 20))\n"
    text = refused(calm, write_program(tmp_path, "glutton", source, '[limits]\nmemory = "32MiB"\n'))
    assert "more memory than [limits] memory allows" in text or "MemoryError" in text


def test_it_forks_while_it_loads(calm: Node, tmp_path: Path) -> None:
    """A helper at import is its own business; what it leaves running ends with the ratchet."""
    source = """
    import os, time
    child = os.fork()
    if child == 0:
        time.sleep(1000)
        os._exit(0)
    done = os.fork()
    if done == 0:
        os._exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(done, 0)[1])

    async def act(path):
        return f"{status} {child}"
    """
    calm.fildes("publish", str(write_program(tmp_path, "forker", source)))
    status, body = ask(calm, "forker")
    assert (status, body.split()[0]) == (200, "7")
    zygote = state(calm, "forker")["zygote"]
    children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    assert [int(pid) for pid in children] == [state(calm, "forker")["instances"][0]["pid"]]
    calm.fildes("rm", "forker")


def test_it_starts_threads_while_it_loads(calm: Node, tmp_path: Path) -> None:
    """It can't be forked, so each instance loads it anew; it is served all the same."""
    source = """
    import os, threading
    ticks = []
    wait = threading.Event()

    def work():
        while not wait.wait(0.01):
            ticks.append(1)

    threading.Thread(target=work, daemon=True).start()

    async def act(path):
        if path == "/exit":
            os._exit(1)
        return len(ticks)
    """
    calm.fildes("publish", str(write_program(tmp_path, "threads", source)))
    first = int(ask(calm, "threads")[1])
    eventually(lambda: int(ask(calm, "threads")[1]) > first, what="its thread goes on")
    assert "starts threads while it loads" in state(calm, "threads")["note"]
    calm.kill("orchestrator")
    assert ask(calm, "threads")[0] == 200
    assert "starts threads while it loads" in state(calm, "threads")["note"]
    calm.fildes("stop", "threads")
    assert ask(calm, "threads")[0] == 200
    assert ask(calm, "threads", "/exit")[0] == 502
    assert ask(calm, "threads")[0] == 200
    calm.fildes("rm", "threads")


# — while it serves —


@pytest.mark.parametrize("path", DIES)
def test_it_dies_in_a_request(wild: Node, path: str) -> None:
    wild.fildes("stop", "wild")  # and forget the crashes before
    began = time.monotonic()
    status, text = ask(wild, "wild", path)
    assert status == 502 and "fildes logs wild" in text
    assert time.monotonic() - began < 8
    eventually(lambda: " ended: it " in wild.fildes("logs", "wild", "-n", "3").stdout)
    assert ask(wild, "wild") == (200, "ok")


def test_an_exception_costs_the_request_only(wild: Node) -> None:
    pid = ask(wild, "wild", "/pid")
    status, text = ask(wild, "wild", "/raise")
    assert status == 500 and "ValueError" not in text
    eventually(lambda: "ValueError: oh no" in wild.fildes("logs", "wild").stdout)
    assert ask(wild, "wild", "/pid") == pid


def test_it_may_not_fork(wild: Node) -> None:
    assert ask(wild, "wild", "/fork") == (200, "PermissionError: [Errno 1] Operation not permitted")


@pytest.mark.root
def test_it_allocates_without_end(wild: Node) -> None:
    status, text = ask(wild, "wild", "/allocate", 20)
    if status in (200, 500):
        pytest.skip("no memory limit binds here")
    assert status == 502 and "fildes logs wild" in text
    assert "more memory than [limits] memory allows" in state(wild, "wild")["note"]
    assert ask(wild, "wild") == (200, "ok")


@pytest.mark.root
def test_it_starts_threads_without_end(wild: Node) -> None:
    status, text = ask(wild, "wild", "/threads")
    assert status == 200 and int(text.split()[0]) < 16, text
    assert ask(wild, "wild") == (200, "ok")


@pytest.mark.root
def test_it_spins(wild: Node) -> None:
    """It may use its 0.3 of a core, and nobody waits for it but its own clients."""
    pid = state(wild, "wild")["instances"][0]["pid"] if ask(wild, "wild") else 0
    spinner = threading.Thread(target=_spin, args=(wild,))
    spinner.start()
    try:
        eventually(lambda: cpu_seconds(pid) > 0.2, 10, "it spins")
        began, used = time.monotonic(), cpu_seconds(pid)
        waits = []
        while time.monotonic() - began < 1.5:
            start = time.monotonic()
            assert ask(wild, "calm") == (200, "ok")
            waits.append(time.monotonic() - start)
            time.sleep(0.01)
        share = (cpu_seconds(pid) - used) / (time.monotonic() - began)
        assert share < 0.45, share
        assert statistics.median(waits) < 0.05
    finally:
        began = time.monotonic()
        wild.fildes("stop", "wild")  # it does not listen: it is killed
        assert time.monotonic() - began < 5
        spinner.join(15)
    assert ask(wild, "wild") == (200, "ok")


def _spin(node: Node) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(node, "wild", "/spin", 10)


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_kill_9_of_the_instance_in_a_request(wild: Node) -> None:
    assert killed_in_a_request(wild, lambda: state(wild, "wild")["instances"][0]["pid"])[0] == 502
    eventually(lambda: "it was killed by SIGKILL" in wild.fildes("logs", "wild", "-n", "2").stdout)


def test_kill_9_of_the_zygote_in_a_request(wild: Node) -> None:
    assert killed_in_a_request(wild, lambda: state(wild, "wild")["zygote"])[0] == 502
    eventually(lambda: "its zygote ended" in wild.fildes("logs", "wild", "-n", "2").stdout)


def killed_in_a_request(node: Node, victim: Any) -> tuple[int, str]:
    node.fildes("stop", "wild")
    assert ask(node, "wild") == (200, "ok")
    pid = state(node, "wild")["instances"][0]["pid"]
    answers: list[tuple[int, str]] = []
    request = threading.Thread(target=lambda: answers.append(ask(node, "wild", "/spin")))
    request.start()
    eventually(lambda: cpu_seconds(pid) > 0.03, what="the request has come")
    os.kill(victim(), signal.SIGKILL)
    request.join(10)
    assert ask(node, "wild") == (200, "ok")
    return answers[0]


def test_kill_9_of_a_warm_zygote(wild: Node) -> None:
    wild.fildes("stop", "wild")
    assert state(wild, "wild")["instances"] == []
    os.kill(state(wild, "wild")["zygote"], signal.SIGKILL)
    began = time.monotonic()
    assert ask(wild, "wild") == (200, "ok")
    assert time.monotonic() - began < 8


def test_it_crashes_again_and_again(wild: Node) -> None:
    wild.fildes("stop", "wild")
    answers = [ask(wild, "wild", "/exit") for _ in range(9)]
    assert [status for status, _ in answers] == [502] * 6 + [503] * 3
    found = state(wild, "wild")
    assert found["state"] == "halted" and "crashed more than 5 times in 10 s" in found["note"]
    assert "fildes start wild" in found["note"]
    response = wild.request("/", host="wild.localhost")
    assert response.status == 503 and int(response.headers["Retry-After"]) > 0
    # Those who look after it may die: it stays halted until somebody says so.
    for daemon in ("orchestrator", "web"):
        wild.kill(daemon)
        assert ask(wild, "wild")[0] == 503
        assert state(wild, "wild")["state"] == "halted"
    wild.fildes("stop", "wild")
    assert ask(wild, "wild") == (200, "ok")
