"""What `fildes new` writes is published as it is, and answers; `fildes open` finds it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from fildes.cli import open as opening
from fildes.manifest.reader import RUNTIMES
from fildes.testing import Node, eventually


def new(node: Node, folder: Path, name: str, runtime: str) -> Path:
    node.fildes("new", name, "--runtime", runtime, "--dir", str(folder / name))
    return folder / name


def explained(manifest: str) -> list[str]:
    """Lines of a manifest that say nothing about themselves."""
    found, section = [], False
    for line in manifest.splitlines():
        if line.startswith("#"):
            continue
        section = section or "#" in line if line.startswith("[") else section and bool(line)
        if line and "#" not in line and not section:
            found.append(line)
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_new_project(house: Node, tmp_path: Path, runtime: str) -> None:
    name = f"new-{runtime}"
    folder = new(house, tmp_path, name, runtime)
    manifest = (folder / "fildes.toml").read_text()
    assert explained(manifest) == [] and max(map(len, manifest.splitlines())) <= 120
    assert tomllib.loads(manifest)["runtime"] == runtime
    try:
        house.fildes("publish", str(folder))
        if runtime == "service":
            eventually(lambda: f"{name} is here" in house.fildes("logs", name).stdout, 10, "it prints")
            opened = house.fildes("open", name, check=False)
            assert opened.returncode == 1 and "it has no HTTP" in opened.stderr
            return
        answer = house.request("/", host=f"{name}.localhost")
        assert answer.status == 200 and f"Hello from {name}".encode() in answer.body
        opened = house.fildes("open", name, "--print")
        port = house.addresses[0][1]
        assert opened.stdout == f"http://{name}.localhost:{port}/\n" and opened.stderr == ""
    finally:
        house.fildes("rm", name, check=False)


def test_what_is_commented_out_can_be_switched_on(tmp_path: Path) -> None:
    """The lines that a new manifest offers are good ones."""
    from fildes.cli._templates import files
    from fildes.manifest import read

    lines = files("shop", "asgi")["fildes.toml"].splitlines()
    on = [line.removeprefix("# ") if line.startswith(("# [", "# kind", "# to", "# TITLE")) else line for line in lines]
    manifest = read("\n".join(on).encode())
    assert {grant.kind for grant in manifest.grants} == {"clock", "random", "connect", "sqlite"}
    assert manifest.env == {"TITLE": "Hello"}


def test_nothing_is_overwritten(house: Node, tmp_path: Path) -> None:
    folder = new(house, tmp_path, "mine", "wsgi")
    (folder / "main.py").write_text("# mine\n")
    (folder / "fildes.toml").unlink()
    done = house.fildes("new", "mine", "--dir", str(folder), check=False)
    assert done.returncode == 1 and "main.py" in done.stderr and "nothing was written" in done.stderr
    assert (folder / "main.py").read_text() == "# mine\n" and not (folder / "fildes.toml").exists()
    assert "is not a service's name" in house.fildes("new", "No Name", check=False).stderr


def test_the_browser_that_is_there(house: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new(house, tmp_path, "shown", "static")
    house.fildes("publish", str(folder))
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {seen}.part && mv {seen}.part {seen}\n')
    browser.chmod(0o755)
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(variable, raising=False)
        house._environment.pop(variable, None)
    done = house.fildes("open", "shown")
    assert "there is no display here" in done.stderr and "shown.localhost" in done.stdout
    house._environment["BROWSER"] = f"{tmp_path}/none:{browser} --new-tab %s"
    try:
        assert house.fildes("open", "shown").stderr == ""
        eventually(seen.exists, 10, "the browser was started")
        assert seen.read_text() == f"--new-tab http://shown.localhost:{house.addresses[0][1]}/\n"
    finally:
        del house._environment["BROWSER"]
    assert "no service 'nobody'" in house.fildes("open", "nobody", check=False).stderr
    house.fildes("rm", "shown")


def test_which_browser() -> None:
    assert opening.browser({"PATH": os.environ["PATH"], "BROWSER": "sh -c:x"})[0] == ["sh", "-c"]
    assert "no display" in opening.browser({"PATH": "/nowhere"})[1]
    assert "xdg-open" in opening.browser({"PATH": "/nowhere", "DISPLAY": ":0"})[1]
