"""A folder becomes a tar: what is left out, what is refused, and that its bytes depend on its content only."""

from __future__ import annotations

import os
import socket
import tarfile
from pathlib import Path

import pytest

from fildes.cli import _folder
from fildes.cli._shared import Trouble


def members(folder: Path) -> dict[str, bytes | None]:
    packed = _folder.pack(str(folder))
    with packed.fd, open(os.dup(packed.fd.fileno()), "rb") as file, tarfile.open(fileobj=file) as tar:
        found: dict[str, bytes | None] = {}
        for member in tar:
            content = tar.extractfile(member)
            found[member.name] = content.read() if content is not None else None
        return found


def test_what_is_left_out(tmp_path: Path) -> None:
    for name in (
        "app.py",
        "sub/x.html",
        ".git/HEAD",
        "__pycache__/app.pyc",
        "a.pyc",
        "env/pyvenv.cfg",
        "env/bin/x",
        "b~",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "node_modules").mkdir()
    assert members(tmp_path) == {"app.py": b"x", "sub": None, "sub/x.html": b"x"}


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    archives = []
    for folder, order in (("one", "abc"), ("two", "cab")):
        (tmp_path / folder).mkdir()
        for name in order:
            (tmp_path / folder / name).write_text(name)
            os.utime(tmp_path / folder / name, (1, 1_700_000_000))
        packed = _folder.pack(str(tmp_path / folder))
        with packed.fd:
            archives.append(os.pread(packed.fd.fileno(), 1 << 20, 0))
        assert (packed.files, packed.size) == (3, 3)
    assert archives[0] == archives[1]


def refusal(folder: Path) -> str:
    with pytest.raises(Trouble) as caught:
        _folder.pack(str(folder))
    return str(caught.value)


def test_refused(tmp_path: Path) -> None:
    assert "nothing in it" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nowhere")
    link = tmp_path / "link"
    link.symlink_to("../outside")
    assert "a symlink that leads out" in refusal(tmp_path)
    link.unlink()
    link.symlink_to("/etc/passwd")
    assert "a symlink that leads out" in refusal(tmp_path)
    link.unlink()
    link.symlink_to("missing")
    assert "which is not there" in refusal(tmp_path)
    link.unlink()
    os.mkfifo(link)
    assert f"{link}: a named pipe" in refusal(tmp_path)
    link.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(link))
        assert "a socket" in refusal(tmp_path)
    link.unlink()
    (tmp_path / "ok").write_text("")
    broken = os.fsencode(tmp_path) + b"/\xff.txt"
    with open(broken, "wb"):
        pass
    assert "is not UTF-8" in refusal(tmp_path)
    os.unlink(broken)
    (tmp_path / "inside").symlink_to("ok")
    assert "inside" in members(tmp_path)
    assert "is a file" in refusal(tmp_path / "ok")
