"""One node for all journeys that share it, and a census of every program that they start."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uv

from fildes.cli.__main__ import main
from fildes.publish.index import discover
from fildes.testing import Node, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
APPS = Path(__file__).parent / "apps"


@pytest.fixture(scope="package")
def town() -> Iterator[Node]:
    """A node for whoever publishes under names of their own. Nothing may go wrong in it unseen."""
    with Node() as node:
        yield node
        assert "Traceback" not in node.output(), node.output()


def told(node: Node, *words: str) -> Any:
    """What `fildes WORDS… --json` prints; in this process, as it is asked after every test."""
    if os.stat(node.state).st_uid != os.geteuid():  # another user's: only they are its operator
        return json.loads(node.fildes(*words, "--json").stdout)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([*words, "--json", "--state", str(node.state)])
    assert status == 0, f"fildes {' '.join(words)} ended with {status}"
    return json.loads(printed.getvalue())


class Account(NamedTuple):
    """How many descriptors were seen, and those that nothing explains: "service, process: fd 7 is …"."""

    seen: int
    unexplained: list[str]


def census(node: Node) -> Account:
    """Every descriptor of every process of every service that runs."""
    seen, unexplained = 0, []
    for service in told(node, "ps")["services"]:
        for process in told(node, "caps", service["service"])["processes"]:
            seen += len(process["fds"])
            unexplained += [
                f"{service['service']}, {process['name']}: fd {entry['fd']} is {entry['target']}"
                for entry in process["fds"]
                if not entry["why"]
            ]
    return Account(seen, unexplained)


@pytest.fixture(autouse=True)
def _census_after_every_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "town" in request.fixturenames:
        account = census(request.getfixturevalue("town"))
        assert not account.unexplained, account.unexplained


def install(folder: Path, *requirements: str, python: str = sys.executable) -> Path:
    """Packages for `python` in a folder, from the indexes that a node on this machine would use."""
    found = discover([], os.environ)
    environment = dict(os.environ)
    if found["urls"]:
        environment |= {"UV_DEFAULT_INDEX": found["urls"][0], "UV_INDEX": " ".join(found["urls"][1:])}
    if found["ca"]:
        environment["SSL_CERT_FILE"] = found["ca"]
    command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", python, "--target", str(folder)]
    command += ["--only-binary", ":all:", *requirements]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Answer(NamedTuple):
    """What curl got. `headers`: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def curl(tmp_path: Path) -> Callable[..., Answer]:
    """`curl(node, host, path, *further words)`: a real client, for ten seconds at most."""

    def ask(node: Node, host: str, path: str = "/", *words: str) -> Answer:
        address, port = node.addresses[0]
        url = f"http://{host}:{port}{path}"
        command = ["curl", "-sS", "-m", "10", "--noproxy", "*", "--connect-to", f"{host}:{port}:{address}:{port}"]
        command += ["--path-as-is", "-D", str(tmp_path / "head"), *words, url]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr.decode()
        # Interim answers (100 Continue) and redirects have heads of their own.
        head = (tmp_path / "head").read_bytes().decode("latin-1").strip().split("\r\n\r\n")[-1].split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        return Answer(int(head[0].split()[1]), headers, done.stdout)

    return ask


Curl = Callable[..., Answer]


class Listener:
    """A command of the CLI that goes on, and what it printed: `fildes logs -f`."""

    def __init__(self, node: Node, *words: str) -> None:
        environment = os.environ | {"FILDES_STATE": str(node.state)}
        command = [sys.executable, "-m", "fildes.cli", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self.heard = ""

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def now(self) -> str:
        """All that was printed until now."""
        assert self._process.stdout is not None
        self.heard += (self._process.stdout.read() or b"").decode()
        return self.heard

    def hears(self, text: str, timeout: float = 10.0) -> str:
        """All that was printed, as soon as a whole line with `text` is in it."""
        eventually(lambda: self.now().rpartition("\n")[0].find(text) >= 0, timeout, f"{text!r} is printed")
        return self.heard

    def ends(self, timeout: float = 10.0) -> int:
        """Its exit status."""
        eventually(lambda: (self.now(), self._process.poll())[1] is not None, timeout, "it ends")
        return self._process.returncode
