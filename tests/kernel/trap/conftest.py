"""Runs small programs as instances see the world: from packs, the serve filter on, no vDSO, on every Python found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fildes.kernel.process import hide_vdso_at_exec, traceme
from fildes.pack import base
from fildes.pack.writer import write_trees
from fildes.sandbox import profile

CHILD = Path(__file__).with_name("child.py")
SOURCES = Path(base.__file__).parents[2]


def pythons() -> list[str]:
    """This interpreter, and one of each other minor version from 3.11 on."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in range(11, 16):
        homes = (Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python3")
        for path in (*map(str, homes), shutil.which(f"python3.{minor}")):
            if path is None or (3, minor) in found:
                continue
            asked = subprocess.run(
                [path, "-c", "import sys, ctypes; print(sys.version_info[1])"], capture_output=True, check=False
            )
            if asked.stdout.strip() == str(minor).encode():
                found[3, minor] = path
    return [found[version] for version in sorted(found)]


@dataclass
class Ran:
    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


@dataclass
class Instance:
    """`run(program)` answers with what it printed; `app` is its /app, written before the first run."""

    python: str
    directory: Path
    base: Path
    no_vdso: bool = True
    clock: int = 0
    random: bool = False
    profile: str = "serve"
    prelude: list[str] = field(default_factory=lambda: ["/app"])
    secrets: dict[str, str] = field(default_factory=dict)
    databases: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: str = ""

    @property
    def app(self) -> Path:
        path = self.directory / "app"
        path.mkdir(exist_ok=True)
        return path

    def run(self, program: str, timeout: float = 60) -> Ran:
        pack = self.directory / "app.pack"
        if not pack.exists():
            with open(pack, "wb") as output:
                write_trees(output, {"/app": self.app}, python=self.python)
        filter_path = self.directory / f"{self.profile}.bpf"
        filter_path.write_bytes(profile.compile(profile.load(self.profile)))
        order = {
            "src": str(SOURCES),
            "packs": [str(pack), str(self.base)],
            "filter": str(filter_path),
            "no_vdso": self.no_vdso,
            "clock": self.clock,
            "random": self.random,
            "files": self.profile == "serve-files",
            "prelude": self.prelude,
            "secrets": self.secrets,
            "databases": self.databases,
            "before": textwrap.dedent(self.before),
            "program": textwrap.dedent(program),
        }
        command = [self.python, "-I", "-S", "-B", str(CHILD), json.dumps(order)]
        return _start(command, self.no_vdso, timeout)


def _start(command: list[str], no_vdso: bool, timeout: float) -> Ran:
    """As subprocess.run, but for the stop at the exec in which the vDSO is hidden."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(out, 1)
            os.dup2(err, 2)
            if no_vdso:
                traceme()
            os.execve(command[0], command, {"TMPDIR": "/tmp", "LANG": "C.UTF-8"})
        finally:
            os._exit(127)
    try:
        if no_vdso:
            hide_vdso_at_exec(pid)
        with_timer = os.pidfd_open(pid)
        try:
            import select

            if not select.select([with_timer], [], [], timeout)[0]:
                os.kill(pid, 9)
        finally:
            os.close(with_timer)
    finally:
        _, status = os.waitpid(pid, 0)
        texts = []
        for fd in (out, err):
            os.lseek(fd, 0, os.SEEK_SET)
            with open(fd, encoding="utf-8", errors="replace") as file:
                texts.append(file.read())
    return Ran(os.waitstatus_to_exitcode(status), *texts)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("bases")

    def build(python: str) -> Path:
        path = directory / base.name(python)
        if not path.exists():
            base.build(path, python)
        return path

    return build


@pytest.fixture(params=pythons(), ids=lambda path: Path(path).parents[1].name)
def instance(request: pytest.FixtureRequest, tmp_path: Path, bases: Callable[[str], Path]) -> Iterator[Instance]:
    yield Instance(request.param, tmp_path, bases(request.param))
