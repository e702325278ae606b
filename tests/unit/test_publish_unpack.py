"""Hostile uploads: every case ends in a sentence that names the file, and no name of theirs ever names a file here."""

from __future__ import annotations

import io
import tarfile
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fildes.publish.names import Rejected, follow, split
from fildes.publish.tree import Tree, decode, encode, expand
from fildes.publish.unpack import Caps, unpack

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive(*members: Member, fmt: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt, encoding="utf-8", errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return io.BytesIO(out.getvalue())


def taken(archive: IO[bytes], caps: Caps | None = None) -> tuple[Tree, bytes]:
    contents = io.BytesIO()
    return unpack(archive, contents, caps), contents.getvalue()


def expanded(tree: Tree, contents: bytes) -> dict[str, bytes | None]:
    return {
        "/".join(parts): None if file is None else contents[file.offset : file.offset + file.size]
        for parts, file in expand(tree)
    }


def test_a_plain_folder() -> None:
    tree, contents = taken(
        archive(
            member("./", tarfile.DIRTYPE),
            member("./app.py", content=b"x = 1\n", mode=0o4755, mtime=1_700_000_000),
            member("templates/a/index.html", content=b"<p>"),
            member("link", tarfile.SYMTYPE, linkname="templates/a"),
            member("deep/er/link", tarfile.SYMTYPE, linkname="../../link/index.html"),
            member("again.py", tarfile.LNKTYPE, linkname="app.py"),
        )
    )
    assert tree.files[("app.py",)] == (0o755, 1_700_000_000, 6, 0)
    assert tree.files[("templates", "a", "index.html")].mtime == 315532800, "no earlier than 1980"
    assert tree.directories == {(), ("templates",), ("templates", "a"), ("deep",), ("deep", "er")}
    assert decode(encode(tree)) == tree
    assert expanded(tree, contents) == {
        "": None,
        "again.py": b"x = 1\n",
        "app.py": b"x = 1\n",
        "deep": None,
        "deep/er": None,
        "deep/er/link": b"<p>",
        "link": None,
        "link/index.html": b"<p>",
        "templates": None,
        "templates/a": None,
        "templates/a/index.html": b"<p>",
    }


HOSTILE = {
    "absolute": ([member("/etc/passwd", content=b"x")], "/etc/passwd: an absolute path"),
    "dotdot": ([member("a/../../b", content=b"x")], "leads out of the folder"),
    "dotdot folder": ([member("..", tarfile.DIRTYPE)], "leads out of the folder"),
    "char device": ([member("dev", tarfile.CHRTYPE)], "dev: a character device"),
    "block device": ([member("dev", tarfile.BLKTYPE)], "dev: a block device"),
    "pipe": ([member("p", tarfile.FIFOTYPE)], "p: a named pipe"),
    "unknown kind": ([member("p", b"Z", b"abc")], "unknown kind"),
    "control character": ([member("a\nb", content=b"x")], "control character"),
    "not utf-8": ([member("a\udcff", content=b"x")], "name is not UTF-8"),
    "symlink out": ([member("d/l", tarfile.SYMTYPE, linkname="../../etc")], "d/l: a symlink that leads out"),
    "symlink absolute": ([member("l", tarfile.SYMTYPE, linkname="/etc/passwd")], "l: a symlink to the absolute"),
    "symlink dangling": (
        [member("l", tarfile.SYMTYPE, linkname="nothing")],
        "l: a symlink to what is not in the folder",
    ),
    "symlink to its own folder": ([member("d/l", tarfile.SYMTYPE, linkname="../d")], "leads back into a folder"),
    "symlinks into each other": (
        [member("a/l", tarfile.SYMTYPE, linkname="../b"), member("b/l", tarfile.SYMTYPE, linkname="../a")],
        "leads back into a folder",
    ),
    "symlink circle": (
        [member("a", tarfile.SYMTYPE, linkname="b"), member("b", tarfile.SYMTYPE, linkname="a")],
        "in circles",
    ),
    "symlink out through another": (
        [
            member("x/y/z", tarfile.DIRTYPE),
            member("in", tarfile.SYMTYPE, linkname="x"),
            member("x/y/l", tarfile.SYMTYPE, linkname="../../in/../../etc"),
        ],
        "leads out",
    ),
    "file through symlink": (
        [member("d", tarfile.DIRTYPE), member("l", tarfile.SYMTYPE, linkname="d"), member("l/f", content=b"x")],
        "in the place of its folder",
    ),
    "file below file": ([member("f", content=b"x"), member("f/g", content=b"x")], "in the place of its folder"),
    "twice": ([member("f", content=b"x"), member("./f", content=b"y")], "f: this path is twice"),
    "file over folder": ([member("d/x", content=b"x"), member("d", content=b"y")], "d: this path is twice"),
    "hard link out": ([member("h", tarfile.LNKTYPE, linkname="/etc/passwd")], "absolute"),
    "hard link to nothing": ([member("h", tarfile.LNKTYPE, linkname="other")], "not in the upload"),
    "hard link to symlink": (
        [
            member("f", content=b"x"),
            member("l", tarfile.SYMTYPE, linkname="f"),
            member("h", tarfile.LNKTYPE, linkname="l"),
        ],
        "not in the upload",
    ),
    "too deep": ([member("/".join("a" * 65), content=b"x")], "folders deep"),
    "too long": ([member("/".join(["a" * 200] * 6), content=b"x")], "a path of"),
    "name too long": ([member("ä" * 200, content=b"x")], "more than 255 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members(case: str) -> None:
    members, said = HOSTILE[case]
    with pytest.raises(Rejected) as caught:
        taken(archive(*members))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_sparse_files_are_refused() -> None:
    info, _ = member("bomb", content=b"")
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
    with pytest.raises(Rejected, match="bomb"):
        taken(archive((info, b"")))
    header = member("old")[0]
    header.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(Rejected):
        taken(archive((header, b""), fmt=tarfile.GNU_FORMAT))


def test_caps() -> None:
    with pytest.raises(Rejected, match="more than 2 files"):
        taken(archive(*[member(f"f{n}") for n in range(3)]), Caps(files=2))
    with pytest.raises(Rejected, match="big: 11 bytes; a file may have 10"):
        taken(archive(member("big", content=b"x" * 11)), Caps(file=10))
    half = b"x" * (700 << 10)
    with pytest.raises(Rejected, match="two: with it the folder has more than 1 MiB"):
        taken(archive(member("one", content=half), member("two", content=half)), Caps(bytes=1 << 20))
    with pytest.raises(Rejected, match="two: with it the folder"):
        taken(archive(member("one", content=half), member("two", tarfile.LNKTYPE, linkname="one")), Caps(bytes=1 << 20))


def test_symlinks_that_multiply() -> None:
    """Twenty folders, each with two links to the next: a million files, were each followed."""
    doubling = []
    for depth in range(20):
        doubling += [member(f"{depth}/{name}", tarfile.SYMTYPE, linkname=f"../{depth + 1}") for name in "ab"]
    with pytest.raises(Rejected, match="more than 200000 files"):
        taken(archive(*doubling, member("20/f", content=b"x")))


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 511, b"\x1f\x8b" + b"x" * 2000])
def test_not_an_archive(content: bytes) -> None:
    with pytest.raises(Rejected, match="not a whole tar archive"):
        taken(io.BytesIO(content))


def test_cut_short() -> None:
    whole = archive(member("f", content=b"x" * 5000)).getvalue()
    with pytest.raises(Rejected):
        taken(io.BytesIO(whole[:3000]))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_broken_bytes_are_read_or_rejected(data: st.DataObject) -> None:
    whole = bytearray(
        archive(
            member("dir/f", content=b"x" * 700),
            member("l", tarfile.SYMTYPE, linkname="dir/f"),
            member("ä" * 80, content=b"y"),
        ).getvalue()
    )
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, min(len(whole), 6000) - 1))] = data.draw(st.integers(0, 255))
    try:
        tree, contents = taken(io.BytesIO(bytes(whole)))
    except Rejected as error:
        assert str(error).isprintable()
    else:
        assert all(file.offset + file.size <= len(contents) for file in tree.files.values())
        for path in expanded(tree, contents):
            assert ".." not in path.split("/") and not path.startswith("/")


def test_split() -> None:
    assert split("./a//b/./c") == ("a", "b", "c")
    assert split(".") == ()


def test_follow_walks_like_the_kernel() -> None:
    links = {("a",): "b/c", ("b", "c", "up"): ".."}
    assert follow(("x",), "a/up/d", links) == ("b", "d")
