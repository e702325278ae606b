"""A backup that somebody else made: restoring it runs nothing of theirs, and a purge deletes nothing of others."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fildes.catalogue import schema
from fildes.cli import _archive
from fildes.init import layout


def made(path: Path, *statements: str) -> Path:
    """A whole backup whose catalogue has been told `statements`."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        schema.migrate(database)
        for statement in statements:
            database.execute(statement)
        data = database.serialize()
    with open(path, "wb") as file:
        archive = _archive.Writer(file, {"fildes": "0", "state": layout.VERSION, "uid_base": 0, "created": 0})
        archive.add(_archive.DATABASE, io.BytesIO(data), len(data))
        archive.end()
    return path


def fildes(*words: str, input: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fildes.cli", *words]
    return subprocess.run(command, input=input, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_as_we_make_it_is_restored(tmp_path: Path) -> None:
    done = fildes("restore", str(made(tmp_path / "backup")), "--state", str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER UPDATE ON uid BEGIN INSERT INTO login VALUES (4242, 'local'); END",
        "CREATE TRIGGER t AFTER INSERT ON secret BEGIN DELETE FROM release; END",
        "CREATE VIEW v AS SELECT load_extension('/tmp/x.so')",
        "CREATE TABLE more (x DEFAULT (writefile('/tmp/x', 'y')))",
        "CREATE VIRTUAL TABLE search USING fts5 (x)",
        "CREATE INDEX more ON service (upper(owner))",
        "PRAGMA user_version = 99",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -1",
    ],
)
def test_a_catalogue_that_is_a_program_is_not_opened(tmp_path: Path, statement: str) -> None:
    done = fildes("restore", str(made(tmp_path / "backup", statement)), "--state", str(tmp_path / "state"))
    assert done.returncode == 1, done.stdout
    assert "is not one that this fildes made" in done.stderr, done.stderr
    assert os.listdir(tmp_path) == ["backup"]


def deep(above: Path, levels: int) -> None:
    """Folders in one another, too deep for a path, the last one with a file, and not to be entered."""
    above.mkdir()
    fd = os.open(above, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.fchmod(fd, 0)
    os.close(fd)


def test_a_purge_ends_whatever_a_program_put_there(tmp_path: Path) -> None:
    state, outside = tmp_path / "state", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of somebody else")
    assert fildes("restore", str(made(tmp_path / "backup")), "--state", str(state)).returncode == 0
    tree = state / "data" / "local" / "service" / "grant" / "tree"
    tree.parent.mkdir(parents=True)
    deep(tree, 3000)
    (tree / "link").symlink_to(outside)
    (tree / "closed").mkdir(mode=0)
    os.mkfifo(tree / "pipe")
    (state / "objects").symlink_to(outside)
    done = fildes("down", "--purge", "--yes", "--state", str(state))
    assert done.returncode == 0, done.stderr
    assert not state.exists() and (outside / "file").read_text()


@pytest.mark.root
def test_a_purge_leaves_what_is_mounted_there(tmp_path: Path) -> None:
    state, outside = tmp_path / "state", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of somebody else")
    assert fildes("restore", str(made(tmp_path / "backup")), "--state", str(state)).returncode == 0
    (state / "data" / "mounted").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(outside), str(state / "data" / "mounted")], check=True, timeout=10)
    try:
        done = fildes("down", "--purge", "--yes", "--state", str(state))
        assert done.returncode == 1 and "mounted" in done.stderr
        assert (outside / "file").read_text()
    finally:
        subprocess.run(["umount", str(state / "data" / "mounted")], check=True, timeout=10)
