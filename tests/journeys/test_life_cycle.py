"""The life of a service as its operator leads it: publish, publish again under load, go back, stop, remove, restart."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from fildes.testing import Node, eventually

from .conftest import APPS, Curl, Listener, census, told

HOST = "herald.localhost"


class Herald(NamedTuple):
    node: Node
    folder: Path

    def edit(self, version: str) -> None:
        """The folder's program says `version` from now on."""
        program = self.folder / "herald.py"
        program.write_text(re.sub(r'^VERSION = ".*"$', f'VERSION = "{version}"', program.read_text(), flags=re.M))

    def publish(self, version: str) -> Any:
        self.edit(version)
        return told(self.node, "publish", str(self.folder))

    def says(self) -> str:
        return self.node.request("/", host=HOST).body.decode()


def set_secret(node: Node, value: bytes) -> None:
    command = [sys.executable, "-m", "fildes.cli", "secret", "set", "herald", "watchword"]
    environment = os.environ | {"FILDES_STATE": str(node.state)}
    subprocess.run(command, input=value, env=environment, check=True, timeout=30, capture_output=True)


@pytest.fixture(scope="module")
def herald(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herald]:
    folder = tmp_path_factory.mktemp("life") / "herald"
    shutil.copytree(APPS / "herald", folder, ignore=shutil.ignore_patterns("__pycache__"))
    set_secret(town, b"swordfish\n")
    one = Herald(town, folder)
    one.publish("one")
    yield one


def test_what_did_not_change_is_not_published_again(herald: Herald) -> None:
    first = told(herald.node, "releases", "herald")["releases"]
    printed = herald.node.fildes("publish", str(herald.folder)).stdout
    assert "herald: unchanged, release " in printed
    assert printed.splitlines()[-1].startswith(f"http://{HOST}:")
    os.utime(herald.folder / "herald.py")  # a date is no change
    assert told(herald.node, "publish", str(herald.folder))["unchanged"]
    assert told(herald.node, "releases", "herald")["releases"] == first


class Client(threading.Thread):
    """Asks over one kept connection, again and again. A server may close one between two requests (RFC 9112, 9.3):
    then it connects anew; that it ends within an answer is an error."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self.address, self.stopped = address, threading.Event()
        self.answers: list[str] = []
        self.errors: list[str] = []
        self.connections = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=15)
        while not self.stopped.is_set():
            if connection.sock is None:
                self.connections += 1
            try:
                connection.request("GET", "/", headers={"Host": HOST})
                answer = connection.getresponse()
                self.answers.append(answer.read().decode())
                if answer.status != 200:
                    self.errors.append(f"{answer.status}: {self.answers[-1]}")
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                connection.close()
            except Exception as error:
                self.errors.append(repr(error))
                break
            time.sleep(0.002)
        connection.close()


def test_new_releases_while_kept_connections_run(herald: Herald) -> None:
    clients = [Client(herald.node.addresses[0]) for _ in range(6)]
    for client in clients:
        client.start()
    try:
        for version in ("two", "three", "four"):
            herald.publish(version)
            assert herald.says() == version, "who comes after the publish gets what was published"
            eventually(lambda version=version: all(client.answers[-1:] == [version] for client in clients))
    finally:
        for client in clients:
            client.stopped.set()
        for client in clients:
            client.join(20)
    for client in clients:
        assert client.errors == []
        changes = [new for old, new in zip(client.answers, client.answers[1:], strict=False) if old != new]
        assert changes == ["two", "three", "four"], "no answer of an old release after one of the new"
        assert client.connections <= 4


def test_a_stream_in_flight_ends_as_it_began(herald: Herald) -> None:
    herald.publish("before")
    connection = http.client.HTTPConnection(*herald.node.addresses[0], timeout=15)
    with contextlib.closing(connection):
        connection.request("GET", "/drip", headers={"Host": HOST})
        answer = connection.getresponse()
        assert answer.readline() == b"before\n"
        tables = told(herald.node, "caps", "herald")["processes"]
        assert any(entry["why"].startswith("connection 127.0.0.1:") for entry in tables[0]["fds"]), tables[0]["fds"]
        herald.publish("after")
        assert herald.says() == "after"
        assert answer.read() == b"before\n" * 14 + b"end\n"


def test_websockets_are_told_to_come_back(herald: Herald) -> None:
    async def scene() -> int:
        address, port = herald.node.addresses[0]
        async with connect(f"ws://{HOST}/", host=address, port=port, proxy=None) as socket:
            assert await socket.recv() == before
            await asyncio.to_thread(herald.publish, "woven")
            with contextlib.suppress(ConnectionClosed):
                await socket.recv()
            assert socket.close_code is not None
            return socket.close_code

    before = herald.says()
    assert asyncio.run(asyncio.wait_for(scene(), 20)) == 1001


def test_back_and_forth(herald: Herald) -> None:
    herald.publish("good")
    bad = herald.publish("bad")
    [current, old, *_] = told(herald.node, "releases", "herald")["releases"]
    assert (current["release"], current["state"], old["state"]) == (bad["release"], "current", "old")
    assert herald.node.fildes("releases", "herald").stdout.splitlines()[1].split()[:2] == [bad["release"], "current"]

    assert told(herald.node, "rollback", "herald")["release"] == old["release"]
    assert herald.says() == "good"
    assert told(herald.node, "rollback", "herald", "--to", bad["release"])["release"] == bad["release"]
    assert herald.says() == "bad"
    refused = herald.node.fildes("rollback", "herald", "--to", "0123456789ab", check=False)
    assert refused.returncode == 1 and "0123456789ab" in refused.stderr
    assert herald.says() == "bad"


def test_back_while_the_old_release_still_finishes(herald: Herald) -> None:
    herald.publish("patient")
    connection = http.client.HTTPConnection(*herald.node.addresses[0], timeout=15)
    with contextlib.closing(connection):
        connection.request("GET", "/drip", headers={"Host": HOST})
        answer = connection.getresponse()
        assert answer.readline() == b"patient\n"
        herald.publish("hasty")
        told(herald.node, "rollback", "herald")
        assert herald.says() == "patient"
        assert answer.read() == b"patient\n" * 14 + b"end\n"
    assert herald.says() == "patient"


def test_a_release_that_fails_changes_nothing(herald: Herald) -> None:
    herald.publish("steady")
    before = told(herald.node, "releases", "herald")["releases"]
    program = herald.folder / "herald.py"
    text = program.read_text()
    try:
        program.write_text(text + "\nraise RuntimeError('not today')\n")
        refused = herald.node.fildes("publish", str(herald.folder), check=False)
    finally:
        program.write_text(text)
    assert refused.returncode == 1
    assert "not today" in refused.stderr + refused.stdout
    assert told(herald.node, "releases", "herald")["releases"] == before
    assert herald.says() == "steady"


def test_stop_and_the_next_request_starts_it(herald: Herald) -> None:
    herald.says()
    [old] = told(herald.node, "ps", "herald")["services"][0]["instances"]
    printed = herald.node.fildes("stop", "herald").stdout
    assert "herald" in printed
    assert told(herald.node, "ps", "herald")["services"][0]["instances"] == []
    assert not Path(f"/proc/{old['pid']}").exists()
    herald.says()
    [new] = told(herald.node, "ps", "herald")["services"][0]["instances"]
    assert new["pid"] != old["pid"] and new["id"] != old["id"]


def test_stop_in_the_middle_of_requests(herald: Herald) -> None:
    client = Client(herald.node.addresses[0])
    client.start()
    try:
        for _ in range(3):
            answers = len(client.answers)
            herald.node.fildes("stop", "herald")
            eventually(lambda answers=answers: len(client.answers) > answers + 5)
    finally:
        client.stopped.set()
        client.join(20)
    assert client.errors == []


def test_the_log_as_it_is_written(herald: Herald) -> None:
    with Listener(herald.node, "logs", "herald", "-f", "-n", "0") as log:
        # From when on it follows is not said: ask until it is heard.
        version = herald.says()
        eventually(lambda: herald.says() and f"{version} was asked for /" in log.now())
        herald.node.request("/marked", host=HOST)
        line = log.hears("/marked").splitlines()[-1]
        release = told(herald.node, "releases", "herald")["releases"][0]["release"]
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z {release} {version} was asked for /marked", line
        )
    last = herald.node.fildes("logs", "herald", "-n", "1").stdout
    assert last == f"{line}\n"


def test_a_secret_is_read_by_the_program_alone(herald: Herald) -> None:
    assert herald.node.request("/watchword", host=HOST).body == b"swordfish"
    set_secret(herald.node, b"shibboleth")
    herald.node.fildes("stop", "herald")
    assert herald.node.request("/watchword", host=HOST).body == b"shibboleth"
    # None runs, and what the next one starts with lies ready: not with the old value.
    herald.node.fildes("stop", "herald")
    set_secret(herald.node, b"open sesame")
    assert herald.node.request("/watchword", host=HOST).body == b"open sesame"
    # It is no variable, no argument, and in no file that others may read.
    # One that waited with the old value may have ended since.
    running = [each for each in told(herald.node, "caps", "herald")["processes"] if each["pid"] is not None]
    assert running
    for process in running:
        for file in ("environ", "cmdline"):
            assert b"sesame" not in Path(f"/proc/{process['pid']}/{file}").read_bytes()
    assert told(herald.node, "secret", "list", "herald") == {"names": ["watchword"]}


def test_ps_for_programs(herald: Herald) -> None:
    herald.says()
    found = told(herald.node, "ps")
    assert set(found) == {"services", "daemons"}
    assert all({"name", "pid", "state", "restarts"} <= set(daemon) for daemon in found["daemons"])
    assert {daemon["name"]: daemon["pid"] for daemon in found["daemons"]} == herald.node.daemons()
    [service] = [one for one in found["services"] if one["service"] == "herald"]
    [instance] = service["instances"]
    assert {"id", "pid", "started", "memory"} <= set(instance)
    assert os.readlink(f"/proc/{instance['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
    assert service["hosts"] == [HOST] and service["urls"][0].startswith(f"http://{HOST}:")


def test_caps_by_the_command_line(herald: Herald) -> None:
    herald.says()
    printed = herald.node.fildes("caps", "herald").stdout
    assert "grant watchword" in printed and "grant clock" in printed
    assert "UNEXPLAINED" not in printed
    account = census(herald.node)
    assert account.seen > 20 and not account.unexplained


def test_the_state_directory_by_option_or_by_variable(herald: Herald) -> None:
    command = [sys.executable, "-m", "fildes.cli"]
    clean = {key: value for key, value in os.environ.items() if key != "FILDES_STATE"}
    for words, environment in (
        (["ps", "herald", "--state", str(herald.node.state)], clean),
        (["--state", str(herald.node.state), "ps", "herald"], clean),
        (["ps", "herald"], clean | {"FILDES_STATE": str(herald.node.state)}),
        (["ps", "herald", "--state", str(herald.node.state)], clean | {"FILDES_STATE": "/nowhere"}),
    ):
        done = subprocess.run(command + words, env=environment, capture_output=True, text=True, timeout=30, check=True)
        assert "herald" in done.stdout


def test_a_folder_without_a_manifest(town: Node, tmp_path: Path, curl: Curl) -> None:
    (tmp_path / "leaflet").mkdir()
    (tmp_path / "leaflet" / "index.html").write_text("<p>Hello</p>")
    (tmp_path / "leaflet" / "a b ü.txt").write_text("spaces")
    published = told(town, "publish", str(tmp_path / "leaflet"), "--name", "flyer")
    assert published["urls"] == [f"http://flyer.localhost:{town.addresses[0][1]}/"]
    assert curl(town, "flyer.localhost").body == b"<p>Hello</p>"
    assert curl(town, "flyer.localhost", "/a%20b%20%C3%BC.txt").body == b"spaces"
    town.fildes("rm", "flyer")


def test_removed_and_published_again(herald: Herald) -> None:
    herald.says()
    releases = told(herald.node, "releases", "herald")["releases"]
    pids = [one["pid"] for one in told(herald.node, "ps", "herald")["services"][0]["instances"]]
    with Listener(herald.node, "logs", "herald", "-f") as log:
        log.hears("was asked for")
        assert told(herald.node, "rm", "herald") == {"service": "herald", "releases": len(releases), "kept": 0}
        assert log.ends() == 0, "there is nothing to follow any more"
    eventually(lambda: herald.node.request("/", host=HOST).status == 404)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert "herald" not in [service["service"] for service in told(herald.node, "ps")["services"]]
    assert told(herald.node, "secret", "list", "herald") == {"names": []}

    set_secret(herald.node, b"anew")
    herald.publish("phoenix")
    assert herald.says() == "phoenix"
    assert len(told(herald.node, "releases", "herald")["releases"]) == 1
    assert "bad" not in herald.node.fildes("logs", "herald").stdout
    herald.node.fildes("rm", "herald")


def test_the_whole_node_again_on_the_same_state(tmp_path: Path) -> None:
    folder = tmp_path / "herald"
    shutil.copytree(APPS / "herald", folder, ignore=shutil.ignore_patterns("__pycache__"))
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("still here")
    state = tmp_path / "state"
    with Node(state) as node:
        set_secret(node, b"kept")
        node.fildes("publish", str(folder))
        node.fildes("publish", str(pages), "--name", "pages")
        before = told(node, "releases", "herald")
        node.request("/marked", host=HOST)
    with Node(state) as node:
        assert node.request("/watchword", host=HOST).body == b"kept"
        assert node.request("/", host="pages.localhost").body == b"still here"
        assert told(node, "releases", "herald") == before
        assert told(node, "publish", str(folder))["unchanged"]
        log = node.fildes("logs", "herald").stdout
        assert "/marked" in log and "/watchword" in log
        account = census(node)
        assert account.seen and not account.unexplained
        # Nobody takes the directory over meanwhile.
        second = node.fildes("up", "--http", "127.0.0.1:0", check=False)
        assert second.returncode == 1 and f"as process {node.pid}" in second.stderr
        assert node.request("/", host=HOST).status == 200
