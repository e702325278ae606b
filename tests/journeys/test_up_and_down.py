"""`fildes up`, `fildes down`, `fildes doctor`, and the command line itself, from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fildes.testing import Node, NodeFailed

PUPPETS = Path(__file__).parents[1] / "kernel" / "puppets"
PYTHONPATH = f"{PUPPETS}:{os.environ.get('PYTHONPATH', '')}"
SMALL = {"arguments": ["--table", "puppet:TABLE"], "environment": {"PYTHONPATH": PYTHONPATH}}


def fildes(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "FILDES_STATE"}
    return subprocess.run(
        [sys.executable, "-m", "fildes.cli", *words],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_up_says_where_it_serves_and_down_ends_it(start_node: Callable[..., Node]) -> None:
    node = start_node(http=["127.0.0.1:0", "[::1]:0"], **SMALL)
    (host, port), (host6, port6) = node.addresses
    assert (host, host6) == ("127.0.0.1", "::1")
    assert f"serving on http://127.0.0.1:{port}\nserving on http://[::1]:{port6}\n" in node.output()
    node.fildes("down", timeout=10)
    assert node.wait() == 0
    assert node.left() == []


def test_up_twice_is_refused_with_the_pid_that_holds_it(start_node: Callable[..., Node]) -> None:
    node = start_node(**SMALL)
    second = node.fildes("up", "--http", "127.0.0.1:0", check=False)
    assert second.returncode == 1
    assert second.stderr == (
        f"fildes: --state {node.state}: a node runs there already, as process {node.pid}: end it with "
        f"`fildes down --state {node.state}`, or name another state directory\n"
    )
    # It changed nothing of the first.
    assert (node.state / "control").exists()
    assert (node.state / "http").read_text() == f"127.0.0.1:{node.addresses[0][1]}\n"


def test_the_same_state_directory_again_and_again(start_node: Callable[..., Node], tmp_path: Path) -> None:
    for _ in range(2):
        node = start_node(tmp_path / "state", **SMALL)
        node.stop()
    assert sorted(os.listdir(tmp_path / "state")) == ["VERSION", "alpha", "lock"]


def test_a_port_that_is_taken(start_node: Callable[..., Node]) -> None:
    node = start_node(**SMALL)
    host, port = node.addresses[0]
    with pytest.raises(NodeFailed, match=r"another program listens there .*take another port, or 0 for a free one"):
        start_node(http=[f"{host}:{port}"], **SMALL)


def test_a_hang_up_of_the_terminal_ends_the_node(tmp_path: Path) -> None:
    import pty

    ready, writer = os.pipe()
    os.set_inheritable(writer, True)
    words = [sys.executable, "-m", "fildes.cli", "up", "--state", str(tmp_path / "s"), "--http", "127.0.0.1:0"]
    words += [*SMALL["arguments"], "--ready-fd", str(writer)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(words[0], words, {**os.environ, **SMALL["environment"]})
    os.close(writer)
    assert os.read(ready, 1) == b"R"
    os.close(ready)
    os.close(terminal)  # the kernel sends SIGHUP to the session of a terminal that is gone
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not (tmp_path / "s" / "control").exists()


def test_down_where_nothing_runs(tmp_path: Path) -> None:
    done = fildes("down", "--state", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"fildes: --state {tmp_path}: no node runs there\n")
    done = fildes("down", "--state", str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (1, f"fildes: --state {tmp_path}/none: No such file or directory\n")


def test_down_does_not_signal_a_process_that_only_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("1\n")
    victim = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        (tmp_path / "lock").write_text(f"{victim.pid}\n")
        assert fildes("down", "--state", str(tmp_path)).returncode == 1
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_without_a_state_directory() -> None:
    done = fildes("down")
    assert done.returncode == 1
    assert done.stderr == "fildes: which node? Name its state directory: --state DIR, or set FILDES_STATE\n"


def test_a_verb_that_is_none() -> None:
    done = fildes("dwon")
    assert (done.returncode, done.stderr) == (2, "fildes: no verb 'dwon'; did you mean 'down'?\n")
    done = fildes("xyzzy")
    assert done.returncode == 2
    assert "doctor, down" in done.stderr


def test_the_overview_names_every_verb() -> None:
    done = fildes("--help")
    assert done.returncode == 0
    for verb in ("up", "down", "doctor"):
        assert f"\n  {verb} " in done.stdout
    assert fildes().returncode == 2


def test_doctor() -> None:
    done = fildes("doctor", "--json")
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert {"seccomp", "Landlock", "namespaces", "cgroups", "memfd", "pidfd", "uv", "Python"} <= checks.keys()
    assert report["works"] is (done.returncode == 0)
    assert report["works"] is all(check["ok"] for check in checks.values() if check["essential"])
    words = fildes("doctor")
    assert words.returncode == done.returncode
    for check in checks.values():
        assert check["name"] in words.stdout


def test_doctor_says_when_the_main_job_can_not_run(tmp_path: Path) -> None:
    # Where no namespace may be made: the limit is the kernel's own (user_namespaces(7)).
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-m", "fildes.cli"]
    done = subprocess.run([*words, "doctor", "--json"], capture_output=True, text=True, timeout=30, check=False)
    if "unshare" in done.stderr:
        pytest.skip("needs user namespaces")
    report = json.loads(done.stdout)
    assert (done.returncode, report["works"]) == (1, False)
    [check] = [check for check in report["checks"] if check["name"] == "namespaces"]
    assert check["ok"] is False
    assert "sysctl user.max_user_namespaces" in check["remedy"]


def test_the_command_line_is_quick() -> None:
    best = 9.0
    for _ in range(5):
        began = time.monotonic()
        fildes("--version")
        best = min(best, time.monotonic() - began)
    assert best < 0.15, f"{best * 1000:.0f} ms"


def test_a_node_of_small_daemons_serves_within_a_second(start_node: Callable[..., Node]) -> None:
    took = []
    for _ in range(3):  # the first compiles what has to be compiled, and others may be using this machine
        node = start_node(**SMALL)
        took.append(node.start_seconds)
        os.kill(node.pid, signal.SIGTERM)
        assert node.wait() == 0
    assert min(took) < 1.0
