"""Packages, locks and another Python, by the commands that one types."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.testing import Node
from fildes.testing.packages import Index

APP = """\
import importlib.metadata

import greet
from shop import page

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = f"{greet.V} {page.text()} {importlib.metadata.version('shop')}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
PROJECT = """\
[project]
name = "shop"
version = "1.5"
dependencies = ["greet"]
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""
PAGE = """\
import pathlib

def text():
    return (pathlib.Path(__file__).parent / "a.txt").read_text()
"""
MANIFEST = 'name = "shop"\nruntime = "asgi"\nentry = "shop.web:app"\nhosts = ["shop.localhost"]\n'


@pytest.fixture
def index() -> Iterator[Index]:
    with Index() as index:
        index.add("greet", "1.0", {"greet.py": "V = 1\n"})
        yield index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "fildes.toml": MANIFEST,
        "pyproject.toml": PROJECT,
        "src/shop/__init__.py": "",
        "src/shop/web.py": APP,
        "src/shop/page.py": PAGE,
        "src/shop/a.txt": "a page",
    }
    for name, text in files.items():
        path = tmp_path / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "shop"


def said(node: Node) -> str:
    return node.request("/", host="shop.localhost").body.decode()


def bundle_of(node: Node) -> str:
    releases = json.loads(node.fildes("releases", "shop", "--json").stdout)["releases"]
    return str(next(release["bundle"] for release in releases if release["state"] == "current"))


def test_a_project_with_a_lock_from_node_to_node_and_to_another_python(
    index: Index, folder: Path, tmp_path: Path
) -> None:
    with Node(arguments=["--index", index.url], environment={"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "2"}) as node:
        printed = node.fildes("publish", str(folder), "--lock").stdout
        assert f"{folder}/requirements.lock: written; keep it with the sources" in printed
        assert said(node) == "1 a page 1.5"
        first = bundle_of(node)
        lock = (folder / "requirements.lock").read_text()
        assert "# Made by fildes for Python 3." in lock and "greet==1.0" in lock
        again = node.fildes("publish", str(folder), "--lock").stdout
        assert "shop: unchanged" in again and "requirements.lock: as it was" in again

        # Newer versions are there, and the index is down: what runs goes on, and the sentence says why.
        index.add("greet", "2.0", {"greet.py": "V = 2\n"})
        index.stop()
        (folder / "pyproject.toml").write_text(PROJECT.replace('"greet"', '"greet>=2"'))
        stale = node.fildes("publish", str(folder), check=False)
        assert stale.returncode == 1 and "run: fildes publish DIR --lock" in stale.stderr
        down = node.fildes("publish", str(folder), "--lock", check=False)
        assert down.returncode == 1 and "can't be reached from this node; nothing was changed" in down.stderr
        assert said(node) == "1 a page 1.5" and (folder / "requirements.lock").read_text() == lock
        index.start()
        node.fildes("publish", str(folder), "--lock")
        assert said(node) == "2 a page 1.5"

        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "requirements.lock").write_text(lock)
        node.fildes("publish", str(folder))
        assert bundle_of(node) == first and said(node) == "1 a page 1.5"
    state = tmp_path / "state"
    with Node(state, arguments=["--index", index.url]) as other:
        for path in sorted(folder.rglob("*.*"), reverse=True):
            path.touch()
            path.chmod(0o600)
        other.fildes("publish", str(folder))
        assert bundle_of(other) == first, "the same sources and lock, another node and another day"
        assert said(other) == "1 a page 1.5"
        other.fildes("publish", str(Path(__file__).parents[2] / "examples/site"))
    _another_python(state, index)


def _another_python(state: Path, index: Index) -> None:
    """The node's Python is upgraded: what was packed for the one before is not run; one command mends it."""
    [database] = [path for path in (state / "catalogue").rglob("*") if path.suffix in (".db", ".sqlite", ".sqlite3")]
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE release SET abi = 'cpython-39-x86_64-linux-gnu' WHERE abi <> ''")
    connection.close()
    with Node(state, arguments=["--index", index.url]) as node:
        services = json.loads(node.fildes("ps", "--json").stdout)["services"]
        state_of = {service["service"]: service["state"] for service in services}
        assert state_of["shop"] == "foreign" and state_of["site"] != "foreign"
        assert "packed for another Python" in node.fildes("ps").stdout
        assert "fildes repack shop" in node.fildes("ps").stdout
        answer = node.request("/", host="shop.localhost")
        assert answer.status in (502, 503) and b"a page" not in answer.body
        printed = node.fildes("repack").stdout
        assert "shop: published" in printed and "site" not in printed
        assert said(node) == "1 a page 1.5"
        assert "nothing to do" in node.fildes("repack").stdout
        assert "foreign" not in node.fildes("ps").stdout
        back = node.fildes("rollback", "shop", check=False)
        assert back.returncode == 1 and "packed for another Python" in back.stderr and said(node) == "1 a page 1.5"
        assert "of which service" in node.fildes("repack", "--release", "x", check=False).stderr
        assert "has no current release" in node.fildes("repack", "nobody", check=False).stderr
