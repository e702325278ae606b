"""What happens before and after a release becomes the current one: commands, a health check, and the end of the old."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fildes.testing import Node, eventually

from .conftest import APPS, Listener, told

HOST = "clerk.localhost"


class Office(NamedTuple):
    node: Node
    folder: Path

    def says(self, *lines: str, program: str | None = None) -> None:
        """The folder's manifest has these lines at its top from now on."""
        manifest = (APPS / "clerk" / "fildes.toml").read_text()
        name, rest = manifest.split("\n", 1)
        (self.folder / "fildes.toml").write_text("\n".join([name, *lines, rest]))
        if program is not None:
            (self.folder / "clerk.py").write_text((APPS / "clerk" / "clerk.py").read_text() + program)

    def publish(self) -> str:
        return self.node.fildes("publish", str(self.folder)).stdout

    def fails(self, timeout: float = 60.0) -> str:
        """What a publish that fails says."""
        done = self.node.fildes("publish", str(self.folder), check=False, timeout=timeout)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def release(self) -> str:
        return str(told(self.node, "ps", "clerk")["services"][0]["release"])


@pytest.fixture(scope="module")
def lobby() -> Iterator[Node]:
    """Commands of a release have 2 s here. There is a clerk."""
    with Node(arguments=["--command-limit", "2"]) as node:
        node.fildes("publish", str(APPS / "clerk"))
        yield node
        assert "Traceback" not in node.output(), node.output()


@pytest.fixture
def office(lobby: Node, tmp_path: Path) -> Office:
    """The clerk's folder as it is in the repository; what is published is what the test before has left."""
    folder = tmp_path / "clerk"
    shutil.copytree(APPS / "clerk", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Office(lobby, folder)


def test_commands_run_in_order_before_the_switch(office: Office) -> None:
    office.says(
        'on_release = ["python tools/count.py one \'a b\'", "python -m tools.count two", "python manage.py show"]',
        program="\nREADY = 'second'\n",
    )
    printed = office.publish()
    shown = [line.strip() for line in printed.splitlines()]
    counted = [line for line in shown if line.startswith("counting")]
    assert counted == ["counting in /app/tools one a b", "counting in /app two"]
    assert "program second" in shown and "env Registry None" in shown, "of the new release, with its environment"
    assert re.search(r"on_release +python -m tools.count two +[\d.]+ m?s", printed)
    assert printed.index("on_release") < printed.index("switch")
    log = office.node.fildes("logs", "clerk").stdout
    assert f"{office.release()} counting in /app two" in log


def test_a_command_that_fails_keeps_the_old_release(office: Office) -> None:
    before, releases = office.release(), told(office.node, "releases", "clerk")
    office.says('on_release = [\n  "python tools/count.py fine",\n  "python manage.py boom",\n]')
    error = office.fails()
    assert "fildes.toml:4: on_release[1]: `python manage.py boom` ended with status 1" in error
    assert "ValueError: bang" in error
    assert office.release() == before
    assert told(office.node, "releases", "clerk") == releases
    assert office.node.request("/", host=HOST).status == 200


def test_a_command_that_crashes_hangs_or_is_not_there(office: Office) -> None:
    before = office.release()
    for command, text in (
        ("python -c 'import ctypes; ctypes.string_at(0)'", "was killed by SIGSEGV; it printed nothing"),
        ("python manage.py stubborn", "took more than 2 s, and was ended; it said last:\n    ignoring"),
        ("python nowhere.py", "there is no such file in the release"),
        ("python manage.py eat", "on_release[0]"),
    ):
        office.says(f'on_release = ["{command}"]')
        assert text in office.fails()
    assert office.release() == before
    assert told(office.node, "ps", "clerk")["services"][0]["commands"] == []


def test_what_a_command_prints_can_not_steer_or_flood(office: Office) -> None:
    (office.folder / "red.py").write_text(r"print('\x1b[2Jred\x07\x9b1A', end='')")
    (office.folder / "loud.py").write_text("for n in range(20000): print('line', n)")
    office.says('on_release = ["python red.py", "python loud.py"]')
    printed = office.publish()
    assert "\x1b" not in printed and "\n    red1A\n" in printed and "    line 19999\n" in printed
    assert re.search(r"… \d+ lines, in the log", printed) and len(printed) < 200_000


def test_a_command_sees_no_operator(office: Office) -> None:
    office.says("on_release = [\"python -c 'import sys; print(repr(sys.stdin.read()), sys.stdout.isatty())'\"]")
    assert "'' False" in office.publish()


def test_who_publishes_goes_away_while_a_command_runs(office: Office) -> None:
    office.publish()
    before, releases = office.release(), told(office.node, "releases", "clerk")
    (office.folder / "nap.py").write_text("import time\nprint('napping', flush=True)\ntime.sleep(1.5)\n")
    office.says('on_release = ["python nap.py"]')
    with Listener(office.node, "publish", str(office.folder)) as publish:
        publish.hears("    napping")
    (office.folder / "nap.py").unlink()
    office.says()
    assert "unchanged" in office.publish(), "it has waited for its turn: the other is over"
    assert office.release() == before
    assert told(office.node, "releases", "clerk") == releases


def test_a_healthy_release(office: Office) -> None:
    before = office.release()
    for path in ("/", "/old"):
        office.says(f'health = "{path}"', program=f"\nREADY = '{path}'\n")
        printed = office.publish()
        assert re.search(rf"health +GET {path} of clerk.localhost: \d+", printed)
    assert office.release() != before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/sick", "it answered 500"),
        ("/never", "it did not answer within 1 s"),
        ("/dies", "it closed the connection without an answer"),
    ],
)
def test_a_sick_release(office: Office, path: str, text: str) -> None:
    before = office.release()
    office.says(f'health = "{path}"')
    manifest = office.folder / "fildes.toml"
    manifest.write_text(manifest.read_text() + "timeout = 1\n")
    error = office.fails()
    assert f"fildes.toml:2: health: GET {path} of clerk.localhost: {text}" in error
    if path == "/dies":
        assert "it exited with status 7" in error
    assert office.release() == before
    assert office.node.request("/", host=HOST).status == 200


def test_what_is_no_answer(office: Office) -> None:
    """A program that speaks something else on its connections."""
    office.says(
        'health = "/"',
        program="""
import os
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    for number in range(3, 64):
        try:
            os.write(number, b"SSH-2.0-hello\\r\\n")
        except OSError:
            pass
    os._exit(0)
""",
    )
    assert "fildes.toml:2: health: " in office.fails()


def test_a_rollback_goes_the_same_way(office: Office) -> None:
    first = office.release()
    office.says('on_release = ["python tools/count.py again"]', 'health = "/"', program="\nREADY = 'second'\n")
    office.publish()
    second = office.release()
    printed = office.node.fildes("rollback", "clerk").stdout
    assert office.release() == first and f"release {second} takes nothing new" in printed
    printed = office.node.fildes("rollback", "clerk", "--to", second).stdout
    assert "counting in /app/tools again" in printed and "health" in printed


class Slow(threading.Thread):
    """One request that takes a while, on a connection that has served one before."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(*node.addresses[0], timeout=20)
        self.connection.request("GET", "/", headers={"Host": HOST})
        self.connection.getresponse().read()
        self.answer: Any = None
        self.begun = time.monotonic()
        self.connection.request("GET", "/slow", headers={"Host": HOST})

    def run(self) -> None:
        with contextlib.closing(self.connection):
            response = self.connection.getresponse()
            self.answer = (response.status, response.read())


def test_a_slow_request_completes_and_what_is_idle_is_closed(office: Office) -> None:
    office.publish()
    idle = http.client.HTTPConnection(*office.node.addresses[0], timeout=20)
    with contextlib.closing(idle):
        idle.request("GET", "/", headers={"Host": HOST})
        idle.getresponse().read()
        slow = Slow(office.node)
        eventually(lambda: len(told(office.node, "ps", "clerk")["services"][0]["instances"]) == 1)
        slow.start()
        office.says(program="\nREADY = 'second'\n")
        printed = office.publish()
        assert "takes nothing new; what it has begun has 30 s" in printed
        assert office.node.request("/", host=HOST).body == b"second"
        assert idle.sock is not None and idle.sock.recv(1) == b"", "idle keep-alives are closed"
        slow.join(20)
        assert slow.answer == (200, b"imported")


def test_a_download_in_flight_from_a_replaced_site(lobby: Node, tmp_path: Path) -> None:
    size = 30_000_000
    (tmp_path / "index.html").write_text("a depot")
    (tmp_path / "big.bin").write_bytes(b"a" * size)
    lobby.fildes("publish", str(tmp_path), "--name", "depot")
    try:
        connection = http.client.HTTPConnection(*lobby.addresses[0], timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", "/big.bin", headers={"Host": "depot.localhost"})
            response = connection.getresponse()
            received = response.read(1000)
            (tmp_path / "big.bin").write_bytes(b"b" * 10)
            lobby.fildes("publish", str(tmp_path), "--name", "depot")
            assert lobby.request("/big.bin", host="depot.localhost").body == b"b" * 10
            received += response.read()
        assert received == b"a" * size
    finally:
        lobby.fildes("rm", "depot")


def test_sites_go_on_when_the_node_gets_new_code(lobby: Node, tmp_path: Path) -> None:
    """Every daemon is replaced in the middle of a download, and under a connection that waits for its next request."""
    size = 30_000_000
    (tmp_path / "index.html").write_text("a depot")
    (tmp_path / "big.bin").write_bytes(os.urandom(1000) * (size // 1000))
    lobby.fildes("publish", str(tmp_path), "--name", "depot")
    try:
        loading, idle = (http.client.HTTPConnection(*lobby.addresses[0], timeout=20) for _ in range(2))
        with contextlib.closing(loading), contextlib.closing(idle):
            idle.request("GET", "/", headers={"Host": "depot.localhost"})
            idle.getresponse().read()
            kept = idle.sock
            loading.request("GET", "/big.bin", headers={"Host": "depot.localhost"})
            response = loading.getresponse()
            received = response.read(1000)
            upgrades = lobby.output().count("every daemon runs the new code")
            os.kill(lobby.pid, signal.SIGHUP)
            eventually(lambda: lobby.output().count("every daemon runs the new code") > upgrades, 20)
            received += response.read()
            idle.request("GET", "/", headers={"Host": "depot.localhost"})
            assert idle.getresponse().read() == b"a depot" and idle.sock is kept
        assert received == (tmp_path / "big.bin").read_bytes()
    finally:
        lobby.fildes("rm", "depot")


def test_environment_and_secrets_as_files(office: Office) -> None:
    office.node.fildes("publish", str(office.folder))
    assert office.node.request("/env", host=HOST).body == b"TITLE=Registry EMPTY="
    manifest = office.folder / "fildes.toml"
    manifest.write_text(manifest.read_text() + '\n[grants.watchword]\nkind = "secret"\n')
    set_secret(office.node, "swordfish")
    office.publish()
    assert office.node.request("/file", host=HOST).body == b"swordfish"
    code = "import os; print(open('/run/secrets/watchword').read(), os.listdir('/run/secrets'))"
    command = ("run", "clerk", "--", "-c", code)
    assert office.node.fildes(*command).stdout == "swordfish ['watchword']\n"
    assert "swordfish" not in office.node.fildes("run", "clerk", "--", "-c", "import os; print(os.environ)").stdout
    # Set anew: who runs keeps what it has, who starts gets the new one.
    set_secret(office.node, "open sesame")
    assert office.node.request("/file", host=HOST).body == b"swordfish"
    assert office.node.fildes(*command).stdout.startswith("open sesame")
    office.node.fildes("stop", "clerk")
    assert office.node.request("/file", host=HOST).body == b"open sesame"


def set_secret(node: Node, value: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "fildes.cli", "secret", "set", "clerk", "watchword"],
        env=os.environ | {"FILDES_STATE": str(node.state)},
        input=value.encode(),
        check=True,
        timeout=20,
        stdout=subprocess.DEVNULL,
    )
