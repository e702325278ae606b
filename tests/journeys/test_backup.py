"""A node in one file and back; what is no whole backup restores nothing; gc and purge."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.init import layout
from fildes.testing import Node

from .conftest import told

PAGE = "<!doctype html><title>kept</title>" + "<p>word</p>" * 400
NOTES = """import json
from fildes import sdk


def handle(request):
    database = sdk.open("db")
    database.execute("create table if not exists note (text)")
    if request.method == "POST":
        with database:
            database.execute("insert into note values (?)", (request.text(),))
    secret = sdk.open("token").text() if request.path == "/secret" else ""
    return {"notes": [row[0] for row in database.execute("select text from note")], "secret": secret}
"""
MANIFEST = """name = "notes"
runtime = "function"
entry = "main:handle"

[grants.db]
kind = "sqlite"

[grants.token]
kind = "secret"
"""


def fildes(*words: str, state: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fildes.cli", *words, "--state", str(state)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def notes(node: Node, path: str = "/") -> dict[str, object]:
    answer = node.request(path, host="notes.localhost")
    assert answer.status == 200, answer.body
    value: dict[str, object] = json.loads(answer.body)
    return value


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The backups of a node that was being written to, and that is gone."""
    folder = tmp_path_factory.mktemp("kept")
    files = {name: folder / name for name in ("key", "open.tar", "sealed.tar")}
    (folder / "site").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "main.py").write_text(NOTES)
    (folder / "notes" / "fildes.toml").write_text(MANIFEST)
    with Node() as node:
        for text in ("first", PAGE):
            (folder / "site" / "index.html").write_text(text)
            node.fildes("publish", str(folder / "site"), "--name", "site")
        node.fildes("policy", "anna", "services=7")
        secret = fildes("secret", "set", "notes", "token", state=node.state, stdin=b"a word for nobody")
        assert secret.returncode == 0, secret.stderr
        node.fildes("publish", str(folder / "notes"))
        assert node.request("/", host="notes.localhost", method="POST", body=b"before").status == 200
        node.fildes("backup", "--new-key", str(files["key"]))
        node.fildes("backup", str(files["open.tar"]))
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                node.request("/", host="notes.localhost", method="POST", body=b"meanwhile")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            node.fildes("backup", str(files["sealed.tar"]), "--key", str(files["key"]))
        finally:
            stop.set()
            writer.join()
    yield files


def test_no_secret_is_in_a_backup_without_a_key_nor_readable_in_one_with(kept: dict[str, Path]) -> None:
    for name in ("open.tar", "sealed.tar"):
        assert b"a word for nobody" not in kept[name].read_bytes()
        assert kept[name].stat().st_mode & 0o077 == 0
    assert kept["key"].stat().st_mode & 0o077 == 0


def test_everything_is_back(kept: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = fildes("restore", str(kept["sealed.tar"]), "--key", str(kept["key"]), state=state)
    assert done.returncode == 0, done.stderr
    with Node(state) as node:
        assert node.request("/", host="site.localhost").body.decode() == PAGE
        before = notes(node, "/secret")
        assert before["secret"] == "a word for nobody"
        written = before["notes"]
        assert isinstance(written, list) and written[0] == "before" and set(written[1:]) <= {"meanwhile"}
        assert told(node, "policy", "anna")["services"] == 7
        node.fildes("rollback", "site")
        assert node.request("/", host="site.localhost").body == b"first"
        assert node.request("/", host="notes.localhost", method="POST", body=b"after").status == 200
    with Node(state) as node:
        again = notes(node)["notes"]
        assert isinstance(again, list) and again[-1] == "after"


def test_without_the_key_all_but_the_secrets(kept: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = fildes("restore", str(kept["sealed.tar"]), state=state)
    assert done.returncode == 0 and b"its secrets stayed sealed" in done.stdout
    with Node(state) as node:
        assert node.request("/", host="site.localhost").body.decode() == PAGE
        assert "token" not in node.fildes("secret", "list", "notes").stdout


def _members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def _tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _named(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_what_is_no_whole_backup_restores_nothing(kept: dict[str, Path], tmp_path: Path) -> None:
    whole = kept["open.tar"].read_bytes()
    members = _members(kept["open.tar"])
    header = json.loads(members[0][1])
    newer = json.dumps({**header, "state": layout.VERSION + 1}).encode()
    form = json.dumps({**header, "format": 99}).encode()
    middle = whole.index(PAGE.encode()) + 100
    cases = {
        "cut": (whole[: len(whole) // 2], b"cut off"),
        "cut at a member's end": (_tar(members[:-1]), b"its end is missing"),
        "one byte": (whole[:middle] + b"X" + whole[middle + 1 :], b"not as it was written"),
        "one less": (_tar([*members[:2], *members[3:]]), b"is missing"),
        "one more": (_tar([*members[:1], (_named("objects/" + "0" * 64), b"x"), *members[1:]]), b"was added"),
        "twice": (_tar([*members[:2], *members[1:]]), b"no backup does"),
        "climbing": (_tar([*members[:1], (_named("../../evil"), b"x"), *members[1:]]), b"no backup does"),
        "absolute": (_tar([*members[:1], (_named("/etc/evil"), b"x"), *members[1:]]), b"no backup does"),
        "data above": (_tar([*members[:1], (_named("data/../../x/db"), b"x"), *members[1:]]), b"no backup does"),
        "link": (_tar([*members[:1], (_named("catalogue.db", tarfile.SYMTYPE, "/etc"), b"")]), b"no backup does"),
        "device": (_tar([*members[:1], (_named("secrets", tarfile.CHRTYPE), b"")]), b"no backup does"),
        "empty": (b"", b"not a backup"),
        "no tar": (b"GIF89a" * 1000, b"not a backup"),
        "another tar": (_tar([(_named("index.html"), b"x")]), b"not a backup"),
        "newer state": (_tar([(members[0][0], newer), *members[1:]]), b"newer fildes"),
        "newer form": (_tar([(members[0][0], form), *members[1:]]), b"can't read"),
    }
    for name, (data, said) in cases.items():
        state = tmp_path / "state"
        done = fildes("restore", "-", state=state, stdin=data)
        assert done.returncode == 1 and said in done.stderr, (name, done.stderr)
        assert b"Traceback" not in done.stderr
        assert os.listdir(tmp_path) == [], f"{name}: something was left"


def test_a_wrong_key_a_place_that_is_taken_and_a_node_that_does_not_run(kept: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    fildes("backup", "--new-key", str(other), state=tmp_path)
    wrong = fildes("restore", str(kept["sealed.tar"]), "--key", str(other), state=tmp_path / "state")
    assert b"sealed with another key" in wrong.stderr and not (tmp_path / "state").exists()
    taken = fildes("restore", str(kept["open.tar"]), state=tmp_path)
    assert b"there is something already" in taken.stderr and other.exists()
    again = fildes("backup", "--new-key", str(other), state=tmp_path)
    assert again.returncode == 1 and b"not there yet" in again.stderr
    nobody = fildes("backup", str(tmp_path / "file"), state=tmp_path)
    assert nobody.returncode == 1 and not (tmp_path / "file").exists()


def test_gc_and_purge(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (tmp_path / "site").mkdir()
    with Node(state) as node:
        for number in range(4):
            (tmp_path / "site" / "index.html").write_text(f"{number} " + os.urandom(50_000).hex())
            node.fildes("publish", str(tmp_path / "site"), "--name", "site")
        stored = len(os.listdir(state / "catalogue" / "objects"))
        assert told(node, "gc", "--keep", "1", "--dry-run")["releases"] == 2
        assert len(os.listdir(state / "catalogue" / "objects")) == stored
        gone = told(node, "gc", "--keep", "1")
        assert gone["releases"] == 2 and gone["size"] > 2 * 100_000
        assert len(os.listdir(state / "catalogue" / "objects")) == stored - 4
        assert node.request("/", host="site.localhost").body.startswith(b"3 ")
        node.fildes("rollback", "site")
        assert node.request("/", host="site.localhost").body.startswith(b"2 ")
        unsure = fildes("down", "--purge", state=state)
        assert unsure.returncode == 1 and b"--yes" in unsure.stderr
        assert node.request("/", host="site.localhost").status == 200
    shutil.copytree(state, tmp_path / "copy")
    assert fildes("down", "--purge", "--yes", state=state).returncode == 0
    assert not state.exists()
    (tmp_path / "copy" / "VERSION").unlink()
    refused = fildes("down", "--purge", "--yes", state=tmp_path / "copy")
    assert refused.returncode == 1 and (tmp_path / "copy" / "catalogue").exists()
