"""A node of an ordinary user: the same journey, with one uid, and nothing that root would be needed for."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

import fildes
from fildes.testing import Node, eventually
from fildes.testing.programs import write_program

from .conftest import EXAMPLES, Curl, census, install, told
from .test_scratch import GRANT as TREE
from .test_scratch import PROGRAM as SCRATCH
from .test_sqlite import ask

SOMEBODY = 61_000  # a uid that stands for nothing; nobody's (65534) is the kernel's word for those it can't tell


def public_python() -> str:
    """An interpreter that everybody may run."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        check = [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if os.path.exists(candidate) and subprocess.run(check, check=False).returncode == 0:
            return candidate
    pytest.skip("needs a Python of version 3.11 or newer that every user may run: apt-get install python3")


def installed(folder: Path, python: str) -> None:
    """Fildes and what it requires, for `python`, in `folder`."""
    source = Path(fildes.__file__).parent
    shutil.copytree(source, folder / "fildes", ignore=shutil.ignore_patterns("__pycache__"))
    project = tomllib.loads((source.parents[1] / "pyproject.toml").read_text())["project"]
    install(folder, *project["dependencies"], python=python)
    subprocess.run([python, "-m", "compileall", "-q", str(folder / "fildes")], check=True, timeout=60)


@pytest.fixture(scope="module")
def cottage() -> Iterator[Node]:
    if os.geteuid() != 0:
        with Node() as node:
            yield node
        return
    # Not in a folder of pytest's, which only we may enter; and so are our own interpreter and sources.
    with tempfile.TemporaryDirectory(prefix="fildes-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        python = public_python()
        installed(folder, python)
        state = folder / "state"
        state.mkdir()
        os.chown(state, SOMEBODY, SOMEBODY)
        # The examples are published by the same user, who must be able to read them.
        shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        become = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "--"]
        environment = {"PYTHONPATH": name, "HOME": str(state)}
        with Node(state, launcher=[*become, python, "-m", "fildes.cli"], environment=environment) as node:
            yield node


def example(node: Node, name: str) -> str:
    copy = node.state.parent / "examples" / name
    return str(copy if copy.exists() else EXAMPLES / name)


def published(node: Node, name: str) -> dict[str, Any]:
    node.fildes("publish", example(node, name))
    [service] = told(node, "ps", name)["services"]
    return service


def test_the_guestbook_of_an_ordinary_user(cottage: Node, curl: Curl) -> None:
    service = published(cottage, "guestbook")
    assert service["state"] == "running"
    host = "guestbook.localhost"
    assert curl(cottage, host, "/", "-d", "name=Ada&text=hello").status == 303
    assert b"<b>Ada</b>" in curl(cottage, host).body
    [instance] = service["instances"]
    status = Path(f"/proc/{instance['pid']}/status").read_text()
    words = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = os.stat(cottage.state).st_uid
    assert words["Uid"].split() == [str(uid)] * 4
    assert int(words["CapPrm"], 16) == int(words["CapEff"], 16) == 0
    assert words["NoNewPrivs"] == "1" and words["Seccomp"] == "2"


def test_what_it_keeps_lasts(cottage: Node, curl: Curl) -> None:
    """Without root a tree is a plain folder: it lasts, and nobody keeps its quota."""
    folder = write_program(cottage.state.parent, "scratch", SCRATCH, TREE)
    cottage.fildes("publish", str(folder))
    assert ask(cottage, "scratch", "/write/one") == "kept"
    assert ask(cottage, "scratch", "/everything") == "(['file'], b'hello', 416)"
    assert ask(cottage, "scratch", "/outside") == "[]"
    assert ask(cottage, "scratch", "/execute").startswith("PermissionError")
    assert (cottage.state / "data" / "local" / "scratch" / "tree" / "tree" / "one").read_text() == "kept"
    assert not census(cottage).unexplained
    cottage.stop()
    cottage.start()
    assert "'one'" in ask(cottage, "scratch", "/list")
    assert b"<b>Ada</b>" in curl(cottage, "guestbook.localhost").body
    copy = cottage.state / "copy"
    cottage.fildes("db", "backup", "guestbook", "db", str(copy))
    cottage.fildes("db", "restore", "guestbook", "db", str(copy))
    assert b"<b>Ada</b>" in curl(cottage, "guestbook.localhost").body
    cottage.fildes("rm", "scratch", "--data")
    assert not (cottage.state / "data" / "local" / "scratch").exists()


def test_its_other_examples(cottage: Node, curl: Curl) -> None:
    for name in ("ledger", "shop", "chat", "site"):
        published(cottage, name)
    assert curl(cottage, "shop.localhost", "/buy/tea", "-X", "POST").status == 303
    assert b"Sold so far: 1 things, 3.20" in curl(cottage, "shop.localhost").body
    assert curl(cottage, "site.localhost", "/about/").body == (EXAMPLES / "site/about/index.html").read_bytes()

    async def scene() -> str:
        address, port = cottage.addresses[0]
        async with connect("ws://chat.localhost/room", host=address, port=port, proxy=None) as socket:
            await socket.recv()
            await socket.send("hello")
            return str(await socket.recv())

    assert asyncio.run(asyncio.wait_for(scene(), 15)) == "hello"


def test_packages_for_an_ordinary_user(cottage: Node, curl: Curl) -> None:
    """They are resolved and installed in a cell of its own making."""
    published(cottage, "postcards")
    assert b"Somewhere after midnight" in curl(cottage, "postcards.localhost", "/from/night-train").body


def test_its_operator_s_verbs(cottage: Node, curl: Curl) -> None:
    cottage.fildes("stop", "guestbook")
    assert curl(cottage, "guestbook.localhost").status == 200
    assert "guestbook" in cottage.fildes("ps", "--all").stdout
    assert cottage.fildes("logs", "guestbook").returncode == 0
    assert cottage.fildes("doctor").returncode == 0
    pid = cottage.kill("web")
    assert curl(cottage, "guestbook.localhost").status == 200
    assert cottage.daemons()["web"] != pid


def test_the_census_of_an_ordinary_user(cottage: Node) -> None:
    account = census(cottage)
    assert account.seen > 20 and not account.unexplained, account.unexplained


def test_frozen_without_cgroups(cottage: Node) -> None:
    """By SIGSTOP, which no program can see coming."""
    published(cottage, "postcards")
    cottage.request("/", host="postcards.localhost")

    def process_states() -> set[str]:
        [service] = told(cottage, "ps", "postcards")["services"]
        pids = [service["zygote"], *(one["pid"] for one in service["instances"])]
        return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}

    cottage.fildes("freeze", "postcards")
    eventually(lambda: process_states() == {"T"}, what="they are stopped")
    cottage.kill("orchestrator")
    eventually(lambda: told(cottage, "ps", "postcards")["services"][0]["state"] == "frozen", what="they are still")
    cottage.fildes("thaw", "postcards")
    assert cottage.request("/", host="postcards.localhost").status == 200
    assert "T" not in process_states()
    cottage.fildes("freeze", "postcards")
    cottage.fildes("stop", "postcards")
    assert cottage.request("/", host="postcards.localhost").status == 200
