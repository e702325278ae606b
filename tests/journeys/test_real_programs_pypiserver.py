"""pypiserver, an index of packages: as waitress serves it, unconfined; packages go in by upload, and out by uv."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

from fildes.testing import Node

from .conftest import install
from .programs import Ask, Twins, ask, multipart, taken, unconfined

HOST = "wheels.localhost"


def wheel(name: str, version: str) -> tuple[str, bytes]:
    """A file name, and a wheel with one module; the same bytes each time."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-py3-none-any.whl", held.getvalue()


def upload(name: str, version: str) -> Ask:
    file, content = wheel(name, version)
    fields = {":action": "file_upload", "protocol_version": "1", "name": name, "version": version}
    body, kind = multipart(("content", file, "application/octet-stream", content), **fields)
    return Ask("POST", "/", body, kind)


ASKS = [
    *(
        Ask("GET", path)
        for path in ("/", "/health", "/simple/", "/packages/", "/simple/parrot/", "/simple", "/nowhere/x")
    ),
    upload("parrot", "1.0"),
    upload("parrot", "1.1"),
    upload("dead_parrot", "0.1"),
    upload("parrot", "1.1"),  # it is there
    Ask("POST", "/", *multipart(**{":action": "file_upload"})),
    Ask("POST", "/", *multipart(("content", "../evil.whl", "x/y", b"x"), **{":action": "file_upload"})),
    *(Ask("GET", path) for path in ("/simple/", "/packages/", "/simple/parrot/", "/simple/Dead.Parrot/", "/")),
    Ask("GET", "/packages/parrot-1.1-py3-none-any.whl"),
    Ask("GET", "/packages/parrot-1.1-py3-none-any.whl", headers={"Range": "bytes=0-9"}),
    Ask("GET", "/packages/parrot-9-py3-none-any.whl"),
    Ask("GET", "/packages/../main.py"),
    Ask("GET", "/parrot/json"),
]


@pytest.fixture(scope="module")
def wheels(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp("wheels")
    app = taken("wheels", folder)
    town.fildes("publish", str(app), timeout=180)
    packages = install(folder / "packages", "-r", str(app / "requirements.txt"), "waitress")
    (folder / "kept").mkdir()
    command = ["-m", "waitress", "--listen", "127.0.0.1:PORT", "main:app"]
    with unconfined(app, packages, *command, environment={"WHEELS": str(folder / "kept")}) as address:
        yield Twins(town, HOST, address)
    town.fildes("rm", "wheels", "--data", check=False)


def test_every_answer_is_what_waitress_gives(wheels: Twins) -> None:
    heard = wheels.agree(
        ASKS, varying=[r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", r'"\d+\.\d+-\d+-\d+"', r"[0-9a-f]{40}"]
    )
    assert {200, 206, 301, 400, 404, 409} <= {answer.status for answer in heard}
    assert not any(answer.status >= 500 for answer in heard)


def test_a_package_is_installed_from_it_and_stays(wheels: Twins, tmp_path: Path) -> None:
    wheels.node.fildes("stop", "wheels")
    ask(wheels.confined, HOST, upload("spam", "2.0"))
    wheels.node.fildes("stop", "wheels")
    command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--no-config", "--no-cache", "--python", sys.executable]
    command += ["--target", str(tmp_path / "out"), "--default-index", f"http://{HOST}/simple/", "spam"]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment["HTTP_PROXY"] = f"http://127.0.0.1:{wheels.confined[1]}"  # so that nobody looks the name up
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "spam.py").read_text() == "VERSION = '2.0'\n"
