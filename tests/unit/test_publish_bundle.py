"""The bundle's hash depends on what is in the files, and on nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import IO

from fildes.publish.bundle import LOCK, write_bundle
from fildes.publish.unpack import Tree, unpack


def upload(folder: Path, order: list[str], mtime: int) -> tuple[Tree, Path]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in order:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.mode = 5, mtime, mtime % 1000, 0o600
            tar.addfile(info, io.BytesIO(b"hello"))
    folder.mkdir()
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(io.BytesIO(out.getvalue()), number), folder
    finally:
        os.close(number)


def bundle(tree: Tree, folder: Path, lock: bytes | None = None) -> tuple[str, bytes]:
    def opener(parts: tuple[str, ...]) -> IO[bytes]:
        return open(folder.joinpath(*parts), "rb")

    out = io.BytesIO()
    return write_bundle(tree, opener, lock, out), out.getvalue()


def test_same_content_same_hash(tmp_path: Path) -> None:
    one, content = bundle(*upload(tmp_path / "a", ["x", "b/y", "ä" * 70], 1_700_000_000))
    two, _ = bundle(*upload(tmp_path / "b", ["ä" * 70, "b/y", "x"], 1_600_000_001))
    assert one == two == hashlib.sha256(content).hexdigest()


def test_the_lock_counts_and_replaces_an_uploaded_one(tmp_path: Path) -> None:
    tree, folder = upload(tmp_path / "a", ["x", LOCK], 1_700_000_000)
    plain, _ = bundle(tree, folder)
    locked, content = bundle(tree, folder, b"iniconfig==2\n")
    assert plain != locked
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == [LOCK, "x"]
        assert tar.extractfile(LOCK).read() == b"iniconfig==2\n"  # type: ignore[union-attr]
