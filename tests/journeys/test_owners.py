"""Two people publish on one node, and neither sees or touches what is the other's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.testing import Node

from .conftest import told

pytestmark = pytest.mark.root

ANNA, BEN, NOBODY = 4242, 4343, 4444
PAGE = "<!doctype html><title>of {}</title>"


class Person:
    """Runs `fildes` under a uid of their own. They may read our sources and interpreter, wherever those are."""

    def __init__(self, node: Node, uid: int) -> None:
        self._environment = {**os.environ, "FILDES_STATE": str(node.state)}
        self._become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        self._become += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        self._become += ["--bounding-set=-all,+dac_read_search", "--"]
        self._fildes = node.launcher

    def fildes(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [*self._become, *self._fildes, *words]
        return subprocess.run(command, env=self._environment, input=stdin, capture_output=True, timeout=60, check=False)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Both of its outputs are one."""
        command = [*self._become, *self._fildes, *words]
        output = subprocess.PIPE
        return subprocess.Popen(command, env=self._environment, stdout=output, stderr=subprocess.STDOUT)

    def may(self, *words: str, stdin: bytes = b"") -> str:
        done = self.fildes(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def may_not(self, *words: str, stdin: bytes = b"") -> str:
        done = self.fildes(*words, stdin=stdin)
        assert done.returncode == 1, (done.stdout, done.stderr)
        return done.stderr.decode()


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


@pytest.fixture(scope="module")
def two(node: Node, tmp_path_factory: pytest.TempPathFactory) -> tuple[Person, Person]:
    for name, uid in (("anna", ANNA), ("ben", BEN)):
        node.fildes("owner", "add", name, str(uid))
    anna, ben = Person(node, ANNA), Person(node, BEN)
    for name, person in (("anna", anna), ("ben", ben)):
        folder = tmp_path_factory.mktemp(name)
        (folder / "index.html").write_text(PAGE.format(name))
        person.may("publish", str(folder), "--name", f"{name}s-site")
    return anna, ben


def test_who_is_who(node: Node, two: tuple[Person, Person]) -> None:
    logins = told(node, "owner")["logins"]
    assert [(login["owner"], login["uid"]) for login in logins] == [("anna", ANNA), ("ben", BEN)]
    assert "uid 4444 is no operator" in Person(node, NOBODY).may_not("ps")


def test_each_is_served(node: Node, two: tuple[Person, Person]) -> None:
    for name in ("anna", "ben"):
        assert node.request("/", host=f"{name}s-site.localhost").body.decode() == PAGE.format(name)


def test_each_sees_their_own(node: Node, two: tuple[Person, Person]) -> None:
    anna, ben = two
    assert "annas-site" in anna.may("ps") and "bens-site" not in anna.may("ps")
    assert "bens-site" in ben.may("ps") and "annas-site" not in ben.may("ps")
    everybody = {service["service"] for service in told(node, "ps")["services"]}
    assert everybody == {"annas-site", "bens-site"}


@pytest.mark.parametrize(
    "words",
    [
        ("ps", "bens-site"),
        ("logs", "bens-site"),
        ("caps", "bens-site"),
        ("releases", "bens-site"),
        ("rollback", "bens-site"),
        ("stop", "bens-site"),
        ("rm", "bens-site", "--yes"),
        ("explain", "bens-site"),
        ("explain", "--plan", "bens-site"),
        ("explain",),
        ("secret", "list", "bens-site"),
        ("ps", "--all"),
        ("policy", "ben"),
        ("policy", "anna", "services=5"),
        ("owner",),
        ("owner", "add", "anna", "4343"),
        ("owner", "rm", "4343"),
        ("down",),
    ],
    ids=" ".join,
)
def test_nobody_touches_anothers(node: Node, two: tuple[Person, Person], words: tuple[str, ...]) -> None:
    if words[0] == "rm":
        words = words[:2]
    said = two[0].may_not(*words)
    assert "Traceback" not in said
    assert node.request("/", host="bens-site.localhost").status == 200


def test_a_name_a_host_or_an_owner_that_is_taken(node: Node, two: tuple[Person, Person], tmp_path: Path) -> None:
    anna, _ = two
    (tmp_path / "index.html").write_text("mine")
    assert "belongs to another owner" in anna.may_not("publish", str(tmp_path), "--name", "bens-site")
    assert "you are anna here" in anna.may_not("publish", str(tmp_path), "--name", "other", "--owner", "ben")
    manifest = 'name = "thief"\nruntime = "static"\nhosts = ["bens-site.localhost"]\n'
    (tmp_path / "fildes.toml").write_text(manifest)
    assert "in use by a service of another owner" in anna.may_not("publish", str(tmp_path))
    (tmp_path / "fildes.toml").write_text(manifest.replace("bens-site.localhost", "www.example.org"))
    assert "is outside of what this owner may use" in anna.may_not("publish", str(tmp_path))


def test_secrets_are_their_owners(node: Node, two: tuple[Person, Person]) -> None:
    anna, ben = two
    ben.may("secret", "set", "bens-site", "token", stdin=b"for ben")
    assert "token" in ben.may("secret", "list", "bens-site")
    for words in (("set", "bens-site", "token"), ("rm", "bens-site", "token"), ("list", "bens-site")):
        anna.may_not("secret", *words, stdin=b"for anna")
    assert "token" in ben.may("secret", "list", "bens-site")


def test_what_one_printed_is_not_told_to_who_takes_the_name(
    node: Node, two: tuple[Person, Person], tmp_path: Path
) -> None:
    anna, ben = two
    (tmp_path / "main.py").write_text("print('a word of anna')\nraise SystemExit(1)\n")
    (tmp_path / "fildes.toml").write_text('name = "first"\nruntime = "asgi"\nentry = "main:app"\n')
    anna.may_not("publish", str(tmp_path))
    (tmp_path / "main.py").write_text("async def app(scope, receive, send): pass\n")
    ben.may("publish", str(tmp_path))
    assert "a word of anna" not in ben.may("logs", "first")


def test_who_is_an_owner_no_more(node: Node, two: tuple[Person, Person]) -> None:
    node.fildes("owner", "add", "carla", str(NOBODY))
    carla = Person(node, NOBODY)
    assert "carlas" not in carla.may("ps")
    node.fildes("owner", "rm", str(NOBODY))
    assert "uid 4444 is no operator" in carla.may_not("ps")
