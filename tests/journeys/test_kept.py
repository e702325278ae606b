"""What services keep outlives them, and is their owner's still: listed, copied, and removed when somebody says so."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.cli.__main__ import main
from fildes.testing import Node
from fildes.testing.programs import write_program

from .conftest import told
from .test_owners import ANNA, BEN, Person
from .test_sqlite import DB, PROGRAM, ask

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


@pytest.fixture(scope="module")
def two(node: Node) -> tuple[Person, Person]:
    for name, uid in (("anna", ANNA), ("ben", BEN)):
        node.fildes("owner", "add", name, str(uid))
    return Person(node, ANNA), Person(node, BEN)


@pytest.fixture
def left(node: Node, two: tuple[Person, Person], tmp_path: Path) -> Iterator[Path]:
    """The folder of a program that anna published, that has kept something, and is gone."""
    folder = write_program(tmp_path, "brief", PROGRAM, DB)
    two[0].may("publish", str(folder))
    assert ask(node, "brief", "/add/annas") == "kept"
    two[0].may("rm", "brief")
    yield folder
    two[0].fildes("rm", "brief", "--data")


def words(copy: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(copy)) as db:
        return [word for (word,) in db.execute("SELECT word FROM word")]


def test_its_owner_and_operators_reach_it_and_nobody_else(
    node: Node, two: tuple[Person, Person], left: Path, tmp_path: Path
) -> None:
    anna, ben = two
    assert "db" in anna.may("db", "list", "brief")
    for owner in ([], ["--owner", "anna"]):
        [item] = told(node, "db", "list", "brief", *owner)["items"]
        assert (item["grant"], item["kind"]) == ("db", "sqlite") and item["size"] > 0
        node.fildes("db", "backup", "brief", "db", str(tmp_path / "copy"), *owner)
        assert words(tmp_path / "copy") == ["annas"]
    place = tmp_path / "annas"
    place.mkdir()
    os.chown(place, ANNA, ANNA)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    anna.may("db", "backup", "brief", "db", str(place / "copy"))
    assert words(place / "copy") == ["annas"]
    for said in (
        ben.may_not("db", "list", "brief"),
        ben.may_not("rm", "brief", "--data"),
        ben.may_not("rm", "brief"),
        ben.may_not("db", "list", "brief", "--owner", "anna"),
    ):
        assert "ben has no service 'brief'" in said or "you are ben here" in said
    assert "was removed before" in anna.may_not("rm", "brief")
    assert node.fildes("db", "list", "nobody", check=False).returncode == 1
    anna.may("rm", "brief", "--data")
    assert not (node.state / "data" / "anna" / "brief").exists()
    assert "anna has no service 'brief'" in anna.may_not("rm", "brief", "--data")


def test_two_who_had_the_same_name(node: Node, two: tuple[Person, Person], left: Path, tmp_path: Path) -> None:
    anna, ben = two
    ben.may("publish", str(left))
    assert "no such table" in ask(node, "brief", "/words")
    assert ask(node, "brief", "/add/bens") == "kept"
    copy = tmp_path / "copy"
    for owner, kept in (([], "bens"), (["--owner", "anna"], "annas"), (["--owner", "ben"], "bens")):
        node.fildes("db", "backup", "brief", "db", str(copy), *owner)
        assert words(copy) == [kept]
    assert "brief    anna" in node.fildes("gc", "--dry-run").stdout
    anna.may("rm", "brief", "--data")
    assert ask(node, "brief", "/words") == "bens"
    assert not (node.state / "data" / "anna" / "brief").exists()
    ben.may("rm", "brief")
    anna.may("publish", str(left))
    assert ask(node, "brief", "/add/annas") == "kept"
    anna.may("rm", "brief")
    assert "say whose: --owner" in node.fildes("rm", "brief", "--data", check=False).stderr
    node.fildes("rm", "brief", "--data", "--owner", "ben")
    assert os.listdir(node.state / "data" / "ben") == []
    assert (node.state / "data" / "anna" / "brief" / "db" / "db").stat().st_size > 0


def test_gc_tells_and_removes_what_removed_services_left(
    node: Node, two: tuple[Person, Person], left: Path, tmp_path: Path
) -> None:
    anna, ben = two
    node.fildes("publish", str(write_program(tmp_path, "stays", PROGRAM, DB)))
    assert ask(node, "stays", "/add/one") == "kept"
    [service] = told(node, "ps", "stays")["services"]
    assert service["kept"][0]["grant"] == "db" and service["kept"][0]["size"] > 0
    assert "it keeps db (sqlite) " in node.fildes("ps", "stays").stdout
    told_of = told(node, "gc", "--dry-run")["data"]
    assert [(kept["owner"], kept["service"], kept["grants"]) for kept in told_of] == [("anna", "brief", ["db"])]
    assert told_of[0]["size"] > 0
    assert "brief" not in ben.may("gc") and "brief" in anna.may("gc")
    unsure = anna.fildes("gc", "--data", stdin=b"")
    assert unsure.returncode == 1 and b"--yes" in unsure.stderr
    ben.may("gc", "--data", "--yes")
    assert (node.state / "data" / "anna" / "brief").exists()
    assert "data of 1 removed service gone" in anna.may("gc", "--data", "--yes")
    assert not (node.state / "data" / "anna" / "brief").exists()
    node.fildes("gc", "--data", "--yes")
    assert ask(node, "stays", "/words") == "one"


def test_what_comes_is_not_taken_for_what_was_left(node: Node, two: tuple[Person, Person], tmp_path: Path) -> None:
    """A first release writes its database before its service is there."""
    anna, _ = two
    folder = write_program(tmp_path, "slow", PROGRAM, DB)
    lines = (folder / "fildes.toml").read_text()
    (folder / "fildes.toml").write_text('on_release = ["python first.py"]\n' + lines)
    (folder / "first.py").write_text(
        "import sqlite3, time\n"
        'db = sqlite3.connect("/data/db.sqlite3")\n'
        'with db:\n    db.execute("CREATE TABLE IF NOT EXISTS word (word)")\n'
        '    db.execute("INSERT INTO word VALUES (?)", ("early",))\n'
        'print("written", flush=True)\n'
        "time.sleep(1)\n"
    )
    with anna.begin("publish", str(folder)) as publishing:
        assert publishing.stdout is not None
        for line in publishing.stdout:
            if b"written" in line:
                break
        assert "data of" not in anna.may("gc", "--data", "--yes")
        publishing.stdout.read()
    assert publishing.returncode == 0
    assert "early" in ask(node, "slow", "/words")
    anna.may("rm", "slow", "--data")


def test_of_a_node_that_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "VERSION").write_text("2\n")
    assert main(["backup", str(tmp_path / "file"), "--state", str(state)]) == 1
    said = capsys.readouterr().err
    assert f"fildes up --state {state}" in said and f"cp -a --sparse=always {state}" in said
    assert not (tmp_path / "file").exists()
