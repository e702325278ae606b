"""`fildes run`: commands of a release, on a terminal and without one, to their ends, whatever those are."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fildes.testing import Node, eventually

from .conftest import APPS, census, told
from .terminal import Terminal


class Clerk(NamedTuple):
    node: Node
    folder: Path

    def run(self, *words: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """`fildes run clerk -- WORDS`, without a terminal."""
        return subprocess.run(
            [sys.executable, "-m", "fildes.cli", "run", "clerk", "--", *words],
            env=os.environ | {"FILDES_STATE": str(self.node.state)},
            input=given or b"",
            capture_output=True,
            timeout=30,
            check=False,
        )

    def at_a_terminal(self, *words: str, **options: tuple[int, int]) -> Terminal:
        return Terminal(self.node, "run", "clerk", "--", *words, **options)

    def commands(self) -> list[dict[str, object]]:
        return list(told(self.node, "ps", "clerk")["services"][0]["commands"])


@pytest.fixture(scope="module")
def clerk(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clerk]:
    folder = tmp_path_factory.mktemp("clerk") / "clerk"
    shutil.copytree(APPS / "clerk", folder, ignore=shutil.ignore_patterns("__pycache__"))
    town.fildes("publish", str(folder))
    yield Clerk(town, folder)
    town.fildes("rm", "clerk", check=False)


def test_the_surroundings_are_those_of_python(clerk: Clerk) -> None:
    done = clerk.run("python", "manage.py", "show", "a b", "--flag")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        "argv ['manage.py', 'show', 'a b', '--flag']",
        "file /app/manage.py __main__ True",
        "where /app /app",
        "program imported",
        "env Registry None",
        "terminals False False False",
    ]
    assert clerk.run("manage.py", "show").returncode == 0, "python in front may be left out"
    assert clerk.run("python", "tools/count.py", "1", "2").stdout == b"counting in /app/tools 1 2\n"


def test_modules_and_code(clerk: Clerk) -> None:
    assert clerk.run("python", "-m", "tools.count", "x").stdout == b"counting in /app x\n"
    assert clerk.run("python", "-m", "json.tool", "--compact", given=b'{"a": [1, 2]}').stdout == b'{"a":[1,2]}\n'
    done = clerk.run("python", "-c", "import sys, clerk; print(sys.argv, clerk.READY, __name__)", "x")
    assert done.stdout == b"['-c', 'x'] imported __main__\n"
    assert clerk.run("python", given=b"print(6 * 7)\n").stdout == b"42\n"


def test_how_it_ends_is_passed_on(clerk: Clerk) -> None:
    assert clerk.run("-c", "raise SystemExit(41)").returncode == 41
    done = clerk.run("-c", "raise SystemExit('no such thing')")
    assert (done.returncode, done.stderr) == (1, b"no such thing\n")
    done = clerk.run("manage.py", "boom")
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[1].startswith('  File "/app/manage.py", line ')
    assert lines[-1] == "ValueError: bang" and "fildes" not in done.stderr.decode()
    done = clerk.run("-c", "import ctypes; ctypes.string_at(0)")
    assert done.returncode == 128 + signal.SIGSEGV and b"it was killed by SIGSEGV" in done.stderr
    done = clerk.run("-c", "import atexit; atexit.register(print, 'goodbye'); print('hello')")
    assert done.stdout == b"hello\ngoodbye\n"
    done = clerk.run("nowhere.py")
    assert done.returncode == 2 and b"no such file in the release" in done.stderr


def test_words_that_make_no_sense(clerk: Clerk) -> None:
    for words, text in (
        (["python", "-m"], "which module?"),
        (["python", "-E", "x.py"], "-m MODULE, -c CODE"),
        (["-c", "x" * 40_000], "bytes"),
    ):
        done = clerk.run(*words)
        assert done.returncode == 1 and text in done.stderr.decode()
    for service, text in (("nobody", "there is no service 'nobody'"),):
        refused = clerk.node.fildes("run", service, "--", "x.py", check=False)
        assert refused.returncode == 1 and text in refused.stderr


def test_bytes_through_pipes(clerk: Clerk) -> None:
    given = os.urandom(3_000_000)
    done = clerk.run("manage.py", "copy", given=given)
    assert (done.returncode, done.stderr) == (0, b"copied\n")
    assert done.stdout == given
    assert clerk.run("-c", "print('not read')", given=given).stdout == b"not read\n"


def test_a_reader_that_goes_away(clerk: Clerk) -> None:
    command = [sys.executable, "-m", "fildes.cli", "run", "clerk", "--", "-c", "while True: print('y' * 99)"]
    with subprocess.Popen(
        command,
        env=os.environ | {"FILDES_STATE": str(clerk.node.state)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"y" * 99 + b"\n"
        process.stdout.close()
        assert process.wait(15) != 0
        assert b"BrokenPipeError" in process.stderr.read()
    eventually(lambda: not clerk.commands())


def test_the_confinement_is_the_releases(clerk: Clerk) -> None:
    tries = (
        "import os, socket\n"
        "for what in (lambda: open('/etc/shadow'), lambda: socket.create_connection(('127.0.0.1', 1)),"
        " os.fork, lambda: os.execv('/bin/sh', ['sh']), lambda: open('/dev/tty')):\n"
        "    try: what(); print('went through')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    done = clerk.run("-c", tries)
    assert done.returncode == 0, done.stderr
    assert b"went through" not in done.stdout and len(done.stdout.splitlines()) == 5


def test_memory_is_limited(clerk: Clerk) -> None:
    done = clerk.run("manage.py", "eat")
    assert done.returncode != 0
    assert b"[limits] memory" in done.stderr or b"MemoryError" in done.stderr
    assert clerk.run("-c", "print(1)").stdout == b"1\n", "the release goes on"


def test_questions_on_a_terminal(clerk: Clerk) -> None:
    with clerk.at_a_terminal("python", "manage.py", "ask") as terminal:
        terminal.sees("Name: ")
        terminal.types("adam\x7fa\r")
        assert "adam" in terminal.sees("Password: ")
        terminal.types("s3cret\r")
        shown = terminal.sees("Password (again): ")
        terminal.types("s3cret\r")
        shown += terminal.sees("6 letters")
        assert "s3cret" not in shown and "made adaa: the same" in shown
        assert terminal.ends() == 3
        assert terminal.is_as_before()


def test_a_terminal_says_what_it_is(clerk: Clerk) -> None:
    with clerk.at_a_terminal("manage.py", "show") as terminal:
        shown = terminal.sees("terminals True True True")
        assert "env Registry xterm-256color\r\n" in shown
        assert terminal.ends() == 0
    with clerk.at_a_terminal("manage.py", "window", size=(100, 30)) as terminal:
        terminal.sees("100 30\r\n")
        terminal.resize(120, 40)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        terminal.sees("now 120 40\r\n")
        assert terminal.ends() == 0


def test_keys_that_interrupt_and_end(clerk: Clerk) -> None:
    with clerk.at_a_terminal("manage.py", "wait") as terminal:
        terminal.sees("waiting")
        terminal.types("\x03")
        terminal.sees("interrupted")
        assert terminal.ends() == 9
    with clerk.at_a_terminal("manage.py", "lines") as terminal:
        terminal.types("one\r")
        terminal.sees("read one")
        terminal.types("\x04")
        terminal.sees("end of file")
        assert terminal.ends() == 0
    with clerk.at_a_terminal("manage.py", "wait") as terminal:
        terminal.sees("waiting")
        terminal.types("\x1c")
        assert terminal.ends() == 128 + signal.SIGQUIT
        assert terminal.is_as_before()


def test_a_command_that_ignores_everything(clerk: Clerk) -> None:
    with clerk.at_a_terminal("manage.py", "stubborn") as terminal:
        terminal.sees("ignoring")
        terminal.types("\x03\x03")
        terminal.types("\x1d\x1d\x1d")
        assert terminal.ends() == 128 + signal.SIGKILL
        assert terminal.is_as_before()
    eventually(lambda: not clerk.commands())


def test_the_operators_terminal_is_out_of_reach(clerk: Clerk) -> None:
    with clerk.at_a_terminal("manage.py", "reach") as terminal:
        shown = terminal.sees("TIOCGPTPEER ")
        assert terminal.ends() == 0
        shown += terminal.seen
        assert "went through" not in shown and shown.count("\r\n") == 4
    with clerk.at_a_terminal("manage.py", "wait") as terminal:
        terminal.sees("waiting")
        [process] = [p for p in told(clerk.node, "caps", "clerk")["processes"] if p["name"].startswith("command ")]
        assert all(entry["why"] for entry in process["fds"]), process
        assert {entry["why"] for entry in process["fds"] if entry["fd"] < 3} == {"command: its terminal"}
        assert not census(clerk.node).unexplained
        [state] = clerk.commands()
        assert Path(f"/proc/{state['pid']}/comm").read_text().startswith("python")
        assert f"command  {state['pid']}" in re.sub(" +", "  ", clerk.node.fildes("ps", "clerk").stdout)
        own = os.ttyname(terminal.slave)
        assert not any(entry["target"] == own for entry in process["fds"])
        terminal.types("\x03")
        assert terminal.ends() == 9


def test_a_window_that_is_closed_ends_it(clerk: Clerk) -> None:
    with clerk.at_a_terminal("manage.py", "wait") as terminal:
        terminal.sees("waiting")
        terminal.hang_up()
        eventually(lambda: not clerk.commands(), 10, "the command is gone")
    with clerk.at_a_terminal("manage.py", "stubborn") as terminal:
        terminal.sees("ignoring")
        [state] = clerk.commands()
        terminal.process.kill()
        eventually(lambda: not clerk.commands(), 10, "the command is gone")
        eventually(lambda: not Path(f"/proc/{state['pid']}").exists())


def test_stop_ends_it(clerk: Clerk) -> None:
    with clerk.at_a_terminal("manage.py", "wait") as terminal:
        terminal.sees("waiting")
        clerk.node.fildes("stop", "clerk")
        assert terminal.ends() == 128 + signal.SIGTERM


def test_signals_without_a_terminal(clerk: Clerk) -> None:
    command = [sys.executable, "-m", "fildes.cli", "run", "clerk", "--", "manage.py", "wait"]
    with subprocess.Popen(
        command,
        env=os.environ | {"FILDES_STATE": str(clerk.node.state)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"interrupted\n"
        assert process.wait(15) == 9


def test_a_daemon_that_dies_takes_no_command_along(clerk: Clerk) -> None:
    with clerk.at_a_terminal("manage.py", "lines") as terminal:
        terminal.types("before\r")
        terminal.sees("read before")
        for daemon in ("debug", "bus", "orchestrator"):
            before = clerk.node.kill(daemon)
            eventually(lambda daemon=daemon, before=before: clerk.node.daemons().get(daemon) not in (None, before))
            terminal.types(f"{daemon}\r")
            terminal.sees(f"read {daemon}")
        eventually(lambda: len(clerk.commands()) == 1)
        terminal.types("\x04")
        terminal.sees("end of file")
        assert terminal.ends() == 0


def test_another_release(clerk: Clerk) -> None:
    old = told(clerk.node, "releases", "clerk")["releases"][0]["release"]
    program = clerk.folder / "clerk.py"
    program.write_text(program.read_text().replace('READY = "imported"', 'READY = "anew"'))
    with clerk.at_a_terminal("manage.py", "lines") as terminal:
        terminal.types("before\r")
        terminal.sees("read before")
        clerk.node.fildes("publish", str(clerk.folder))
        terminal.types("after\r")
        terminal.sees("read after")
        says = ("-c", "import clerk; print(clerk.READY)")
        assert clerk.run(*says).stdout == b"anew\n"
        done = clerk.node.fildes("run", "--release", old, "clerk", "--", *says)
        assert done.stdout == "imported\n"
        terminal.types("\x04")
        assert terminal.ends() == 0
    refused = clerk.node.fildes("run", "--release", "0123456789ab", "clerk", "--", *says, check=False)
    assert refused.returncode == 1 and "0123456789ab" in refused.stderr


def test_the_log_tells_that_it_was_run_and_not_its_words(clerk: Clerk) -> None:
    clerk.run("-c", "pass", "--password", "hunter2")

    def told_of() -> list[str]:
        return re.findall(r"fildes fildes run -c … .* ended with status 0", clerk.node.fildes("logs", "clerk").stdout)

    eventually(lambda: told_of() != [])
    assert "hunter2" not in clerk.node.fildes("logs", "clerk").stdout


def test_a_program_with_threads(town: Node, tmp_path: Path) -> None:
    folder = tmp_path / "threaded"
    shutil.copytree(APPS / "clerk", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "fildes.toml").write_text((folder / "fildes.toml").read_text().replace('"clerk"', '"threaded"', 1))
    (folder / "clerk.py").write_text(
        (folder / "clerk.py").read_text()
        + "\nimport threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
    )
    town.fildes("publish", str(folder))
    try:
        for _ in range(2):
            done = town.fildes("run", "threaded", "--", "manage.py", "show", "x")
            assert "argv ['manage.py', 'show', 'x']" in done.stdout
        with Terminal(town, "run", "threaded", "--", "manage.py", "wait") as terminal:
            terminal.sees("waiting")
            assert town.request("/", host="threaded.localhost").status == 200
            terminal.types("\x03")
            terminal.sees("interrupted")
            assert terminal.ends() == 9
        assert town.request("/", host="threaded.localhost").status == 200
    finally:
        town.fildes("rm", "threaded")


def test_a_site_has_no_program(town: Node, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")
    town.fildes("publish", str(tmp_path), "--name", "plain")
    refused = town.fildes("run", "plain", "--", "x.py", check=False)
    assert refused.returncode == 1 and "static site" in refused.stderr
    town.fildes("rm", "plain")
