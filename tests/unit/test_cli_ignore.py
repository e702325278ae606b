"""Ignore files: ours against git's own reading of them, and what they make of a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fildes.cli import _folder
from fildes.cli._ignore import Rules
from fildes.cli._shared import Trouble

TREE = [
    "a", "b.txt", "B.txt", "foo", "foo.o", "x y", "#hash", "!bang", "a-b", "[x]", "dir/a", "dir/b.txt", "dir/foo/bar.o",
    "dir/foo/baz", "build/a/b/c.txt", "build/a/c.txt", "deep/build/x", "deep/dir/b.txt", "ä/ö.txt",
]  # fmt: skip

_pieces = st.sampled_from(
    ["a", "b", "*", "?", "**", "/", "foo", "dir", "build", ".txt", ".o", "[ab]", "[!a]", "[a-c]", "[[:alpha:]]", "\\",
     "!", "#", " ", "x", "-", "]", "[", "/**", "**/", "deep", "c", "ä"]
)  # fmt: skip
_patterns = (
    st.lists(_pieces, min_size=1, max_size=5)
    .map("".join)
    .filter(
        # git compares what is before the first wildcard on its own: "a**/b" is to it "a", and then "**/b".
        lambda p: "//" not in p and not re.search(r"[^/]\*\*|\*\*[^/]", p)
    )
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not here to be compared with")
    folder = tmp_path_factory.mktemp("repository")
    for name in TREE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    subprocess.run(["git", "init", "-q", str(folder)], check=True, timeout=20, env=_environment())
    return folder


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}


def by_git(folder: Path) -> set[str]:
    command = ["git", "-C", str(folder), "-c", "core.quotePath=false", "check-ignore", "--no-index", "--stdin", "-z"]
    done = subprocess.run(
        command, input="\0".join(TREE).encode(), capture_output=True, timeout=20, check=False, env=_environment()
    )
    assert done.returncode in (0, 1), done.stderr
    return {name for name in done.stdout.decode().split("\0") if name}


def by_us(rules: Rules) -> set[str]:
    found = set()
    for path in TREE:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            if rules.names("/".join(parts[:depth]), directory=depth < len(parts)):
                found.add(path)
                break
    return found


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=st.lists(_patterns, min_size=1, max_size=4))
def test_as_git_reads_them(repository: Path, patterns: list[str]) -> None:
    content = "\n".join(patterns).encode()
    (repository / ".gitignore").write_bytes(content)
    rules = Rules()
    rules.read(".gitignore", "", content)
    assert by_us(rules) == by_git(repository)


def test_a_folder_s_own_file_speaks_last(repository: Path) -> None:
    (repository / ".gitignore").write_text("*.txt\nbuild/a\n")
    (repository / "dir/.gitignore").write_text("!b.txt\n/a\n")
    rules = Rules()
    for folder in ("", "dir"):
        rules.read(".gitignore", folder, (repository / folder / ".gitignore").read_bytes())
    assert by_us(rules) == by_git(repository)
    (repository / "dir/.gitignore").unlink()


def names(folder: Path) -> set[str]:
    packed = _folder.pack(str(folder))
    with packed.fd, open(os.dup(packed.fd.fileno()), "rb") as file, tarfile.open(fileobj=file) as tar:
        return {member.name for member in tar if not member.isdir()}


def fill(folder: Path, *paths: str) -> None:
    for name in paths:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_what_is_uploaded(tmp_path: Path) -> None:
    fill(tmp_path, "main.py", ".env", "dist/app.js", "node_modules/x/index.js", ".venv/pyvenv.cfg", "venv/pyvenv.cfg",
         "venv/lib/x.py", "__pycache__/m.pyc", ".git/config", "sub/.gitignore",
         "sub/a.log", "sub/b", "fildes.toml")  # fmt: skip
    (tmp_path / ".gitignore").write_text(".env\ndist/\nfildes.toml\n")
    (tmp_path / "sub/.gitignore").write_text("*.log\n")
    assert names(tmp_path) == {"main.py", ".gitignore", "sub/.gitignore", "sub/b", "fildes.toml"}
    packed = _folder.pack(str(tmp_path))
    packed.fd.close()
    assert packed.words().endswith("(2 by .gitignore, 1 by sub/.gitignore left out)")
    (tmp_path / ".fildesignore").write_text("!dist/\nsub\n")
    assert names(tmp_path) == {"main.py", ".gitignore", ".fildesignore", "dist/app.js", "fildes.toml"}


def test_dockerignore_begins_at_the_top_and_takes_back(tmp_path: Path) -> None:
    fill(tmp_path, "main.py", "b.md", "sub/b.md", "data/keep/x", "data/y", "fildes.toml")
    (tmp_path / ".dockerignore").write_text("*.md\ndata\n!data/keep\n.dockerignore\n")
    assert names(tmp_path) == {"main.py", "sub/b.md", "data/keep/x", "fildes.toml"}
    (tmp_path / ".fildesignore").write_text("# nothing\n")
    assert "b.md" in names(tmp_path), "ours is asked instead"


def test_a_folder_of_which_nothing_is_left(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    (tmp_path / ".gitignore").write_text("*\n")
    with pytest.raises(Trouble, match=r"nothing in it to publish: \.gitignore leaves everything out; a file"):
        _folder.pack(str(tmp_path))
    (tmp_path / ".fildesignore").write_text("!*\n")
    assert "a" in names(tmp_path)
