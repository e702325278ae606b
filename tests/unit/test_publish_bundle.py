"""The bundle's hash depends on what is in the files, and on nothing else."""

from __future__ import annotations

import hashlib
import io
import tarfile

from fildes.kernel import memfd
from fildes.publish.bundle import write_bundle
from fildes.publish.lockfile import LOCK
from fildes.publish.tree import Tree
from fildes.publish.unpack import unpack


def upload(order: list[str], mtime: int) -> tuple[Tree, bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in order:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.mode = len(name.encode()), mtime, mtime % 1000, 0o600
            tar.addfile(info, io.BytesIO(name.encode()))
    contents = io.BytesIO()
    return unpack(io.BytesIO(out.getvalue()), contents), contents.getvalue()


def bundle(tree: Tree, contents: bytes, lock: bytes | None = None) -> tuple[str, bytes]:
    out = io.BytesIO()
    with memfd.sealed("contents", contents) as fd:
        return write_bundle(tree, fd.fileno(), lock, out), out.getvalue()


def test_same_content_same_hash() -> None:
    one, content = bundle(*upload(["x", "b/y", "ä" * 70], 1_700_000_000))
    two, _ = bundle(*upload(["ä" * 70, "b/y", "x"], 1_600_000_001))
    assert one == two == hashlib.sha256(content).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == ["b", "b/y", "x", "ä" * 70]
        assert tar.extractfile("b/y").read() == b"b/y"  # type: ignore[union-attr]


def test_the_lock_counts_and_replaces_an_uploaded_one() -> None:
    tree, contents = upload(["x", LOCK], 1_700_000_000)
    plain, _ = bundle(tree, contents)
    locked, content = bundle(tree, contents, b"iniconfig==2\n")
    assert plain != locked
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == [LOCK, "x"]
        assert tar.extractfile(LOCK).read() == b"iniconfig==2\n"  # type: ignore[union-attr]
