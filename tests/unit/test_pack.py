"""The pack: what goes in comes out, the same bytes each time, and a hostile one is refused when it is opened."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fildes.pack.collect import Source, collect
from fildes.pack.format import ENTRY, HEADER, PackError, dirents, parse_dirents
from fildes.pack.reader import Pack
from fildes.pack.writer import write, write_trees

NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
FILES = st.dictionaries(
    st.lists(NAME, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)), st.binary(max_size=200)
)


@contextmanager
def opened(data: bytes) -> Iterator[Pack]:
    fd = os.memfd_create("pack", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        with Pack(fd) as pack:
            yield pack
    finally:
        os.close(fd)


def packed(sources: list[Source]) -> bytes:
    output = io.BytesIO()
    write(output, sources)
    return output.getvalue()


def small() -> bytes:
    return packed([Source("/app/a.txt", b"hello", mtime=5), Source("/app/b", None), Source("/app/c.txt", b"hello")])


def without_conflicts(files: dict[str, bytes]) -> dict[str, bytes]:
    return {p: d for p, d in files.items() if not any(q.startswith(p + "/") for q in files)}


@settings(deadline=None, max_examples=60)
@given(FILES)
def test_what_goes_in_comes_out(files: dict[str, bytes]) -> None:
    files = without_conflicts(files)
    with opened(packed([Source(path, data) for path, data in files.items()])) as pack:
        found = {entry.path: pack.read(entry) for entry in pack if not entry.is_dir}
        assert found == files
        for path, data in files.items():
            entry = pack.lookup(path)
            assert entry is not None
            assert os.pread(pack.fd, entry.size, entry.offset) == data
            folder = pack.entry(entry.parent)
            assert path.rpartition("/")[2] in pack.list(folder)
            assert pack.lookup(path + "x") is None or path + "x" in files
        for entry in pack:
            if entry.is_dir:
                below = [e.path.rpartition("/")[2] for e in pack if e.parent == entry.index and e.index]
                assert pack.list(entry) == below


@settings(deadline=None, max_examples=30)
@given(FILES, st.randoms(use_true_random=False))
def test_the_order_of_the_sources_does_not_matter(files: dict[str, bytes], random: object) -> None:
    sources = [Source(path, data) for path, data in without_conflicts(files).items()]
    before = packed(sources)
    random.shuffle(sources)  # type: ignore[attr-defined]
    assert packed(sources) == before


def test_equal_contents_are_stored_once() -> None:
    big = os.urandom(100_000)
    data = packed([Source(f"/app/{n}", big) for n in range(20)])
    assert len(data) < 110_000
    with opened(data) as pack:
        assert len({pack.lookup(f"/app/{n}").offset for n in range(20)}) == 1  # type: ignore[union-attr]


@given(
    st.lists(st.tuples(st.integers(1, 2**40), st.sampled_from([4, 8]), st.binary(min_size=1, max_size=255)), max_size=9)
)
def test_directory_records_are_read_back(records: list[tuple[int, int, bytes]]) -> None:
    records = [(i, k, n.replace(b"/", b"x").replace(b"\0", b"y")) for i, k, n in records]
    data = dirents(records)
    assert len(data) % 8 == 0
    assert parse_dirents(data) == records


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_changed_byte_in_the_tables_is_refused_or_harmless(data: st.DataObject) -> None:
    original = small()
    data_off = HEADER.unpack_from(original)[6]
    spot = data.draw(st.integers(0, data_off - 1))
    changed = bytearray(original)
    changed[spot] ^= data.draw(st.integers(1, 255))
    try:
        with opened(bytes(changed)) as pack:
            for entry in pack:
                assert entry.size <= len(original)
                assert pack.list(entry) is not None if entry.is_dir else pack.read(entry) is not None
    except PackError:
        pass


def with_field(number: int, field: int, value: int | bytes) -> bytes:
    out = bytearray(small())
    at = HEADER.size + number * ENTRY.size
    fields = list(ENTRY.unpack_from(out, at))
    fields[field] = value
    ENTRY.pack_into(out, at, *fields)
    return bytes(out)


def with_header(field: int, value: int | bytes) -> bytes:
    out = bytearray(small())
    fields = list(HEADER.unpack_from(out))
    fields[field] = value
    HEADER.pack_into(out, 0, *fields)
    return bytes(out)


def with_name(before: bytes, after: bytes) -> bytes:
    return small().replace(before, after)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: b"", "fewer than its header"),
        (lambda: small()[:100], "cut off"),
        (lambda: small() + b"x", "cut off or added"),
        (lambda: with_header(0, b"NOTAPACK"), "first bytes"),
        (lambda: with_header(1, 2), "version 2"),
        (lambda: with_header(2, 0), "0 members"),
        (lambda: with_header(2, 2**31), "are possible"),
        (lambda: with_header(2, 500_000), "tables"),
        (lambda: with_header(4, 2**63), "tables"),
        (lambda: with_header(5, 2**63), "tables"),
        (lambda: with_header(6, 2**63), "tables"),
        (lambda: with_field(1, 0, 2**32 - 1), "outside the names"),
        (lambda: with_field(1, 1, 2**32 - 1), "outside the names"),
        (lambda: with_field(2, 2, stat.S_IFLNK | 0o777), "neither a plain"),
        (lambda: with_field(2, 2, stat.S_IFCHR | 0o666), "neither a plain"),
        (lambda: with_field(2, 2, stat.S_IFREG | 0o4755), "neither a plain"),
        (lambda: with_field(2, 3, 2), "directory is not in"),
        (lambda: with_field(2, 3, 0), "directory is not in"),
        (lambda: with_field(2, 4, 0), "outside the data"),
        (lambda: with_field(2, 4, 2**64 - 16), "outside the data"),
        (lambda: with_field(2, 5, 2**63), "outside the data"),
        (lambda: with_field(2, 6, -1), "time of change"),
        (lambda: with_field(0, 2, stat.S_IFREG | 0o644), "directory is not in"),
        (lambda: with_field(3, 2, stat.S_IFREG | 0o644), "listing differs"),
        (lambda: with_name(b"/app/a.txt", b"/app/../xt"), "as a component"),
        (lambda: with_name(b"/app/a.txt", b"/app//.txt"), "as a component"),
        (lambda: with_name(b"/app/a.txt", b"/app/z.txt"), "not sorted"),
        (lambda: with_name(b"/app/a.txt", b"/app/a\0txt"), "NUL"),
        (lambda: with_name(b"a.txt\0", b"q.txt\0"), "listing differs"),
        (lambda: with_name(b"a.txt\0", b"atxt\0\0"), "listing differs"),
    ],
)
def test_a_hostile_pack_is_refused(make: Callable[[], bytes], says: str) -> None:
    with pytest.raises(PackError, match=says), opened(make()):
        pass


@pytest.mark.parametrize(
    "path", ["app", "/app/", "/a//b", "/a/../b", "/a/./b", "/a\0b", "/" + "x" * 256, "/" + "ab/" * 2000 + "c"]
)
def test_a_path_that_is_not_normal_is_not_packed(path: str) -> None:
    with pytest.raises(PackError):
        packed([Source(path, b"")])


def test_a_file_cannot_be_a_directory_too() -> None:
    with pytest.raises(PackError, match="both a file and a directory"):
        packed([Source("/a", b""), Source("/a/b", b"")])
    with pytest.raises(PackError, match="twice"):
        packed([Source("/a", b"1"), Source("/a", b"2")])


def test_links_inside_the_tree_become_what_they_point_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("x")
    (tmp_path / "dir").symlink_to("real")
    (tmp_path / "file").symlink_to("real/x")
    (tmp_path / "__pycache__").mkdir()
    assert {s.path for s in collect(tmp_path, "/app")} == {
        "/app",
        "/app/real",
        "/app/real/x",
        "/app/dir",
        "/app/dir/x",
        "/app/file",
    }


@pytest.mark.parametrize(
    ("target", "says"),
    [("/etc/passwd", "outside"), ("../..", "outside"), ("gone", "nowhere"), (".", "leads back"), ("loop", "nowhere")],
)
def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "loop").symlink_to(target)
    with pytest.raises(PackError, match=says):
        list(collect(tmp_path, "/app"))


def test_pipes_and_bad_names_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PackError, match=r"pipe: .*device"):
        list(collect(tmp_path, "/app"))
    (tmp_path / "pipe").unlink()
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).touch()
    with pytest.raises(PackError, match="not UTF-8"):
        list(collect(tmp_path, "/app"))


def test_links_cannot_make_a_small_tree_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fildes.pack.collect.MAX_MEMBERS", 2000)
    for number in range(30):
        folder = tmp_path / f"d{number}"
        folder.mkdir()
        for side in "ab":
            (folder / side).symlink_to(tmp_path / f"d{number + 1}")
    (tmp_path / "d30").mkdir()
    with pytest.raises(PackError, match="more than"):
        list(collect(tmp_path, "/app"))


def test_byte_code_is_packed_and_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("X = {'a', 'b', 'c', 'd'}\ndef f(): return __file__\n")
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000)
    first, second = io.BytesIO(), io.BytesIO()
    write_trees(first, {"/app": tmp_path}, python=sys.executable)
    write_trees(second, {"/app": tmp_path}, python=sys.executable)
    assert first.getvalue() == second.getvalue()
    with opened(first.getvalue()) as pack:
        compiled = [entry for entry in pack if entry.path.endswith(".pyc")]
        assert [e.path for e in compiled] == [f"/app/__pycache__/good.{sys.implementation.cache_tag}.pyc"]
        flags = struct.unpack_from("<4xI", pack.read(compiled[0]))[0]
        assert flags == 0b01  # PEP 552: hash-based, unchecked


def test_a_source_that_kills_the_compiler_is_left_out(tmp_path: Path) -> None:
    """The worker is killed from its second source on: a stand-in for a crash in the compiler."""
    fake = tmp_path / "python"
    fake.write_text(
        f"#!{sys.executable}\nimport sys, os\nread, out = sys.stdin.buffer.read, sys.stdout.buffer\n"
        "out.write(b'cpython-313\\n')\n"
        "while head := read(8):\n"
        "    path = read(int.from_bytes(head[:4], 'little')); read(int.from_bytes(head[4:], 'little'))\n"
        "    out.flush()\n"
        "    if b'crash' in path: os.abort()\n"
        "    out.write((3).to_bytes(4, 'little') + b'pyc')\n"
    )
    fake.chmod(0o755)
    from fildes.pack.bytecode import compile_sources

    done = compile_sources(str(fake), [(f"/app/{name}.py", b"") for name in ("a", "crash", "b", "crash2")])
    assert [path for path, _ in done] == ["/app/__pycache__/a.cpython-313.pyc", "/app/__pycache__/b.cpython-313.pyc"]


def test_an_interpreter_that_is_none_is_named(tmp_path: Path) -> None:
    from fildes.pack.bytecode import compile_sources

    with pytest.raises(OSError, match="/bin/true ended with 0"):
        compile_sources("/bin/true", [("/app/a.py", b"")])


def test_the_import_system_takes_the_packed_byte_code(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mod.py").write_text("VALUE = 41\n")
    output = io.BytesIO()
    write_trees(output, {"/app": tmp_path / "in"}, python=sys.executable)
    with opened(output.getvalue()) as pack:
        pyc = next(entry for entry in pack if entry.path.endswith(".pyc"))
        (tmp_path / "__pycache__").mkdir()
        (tmp_path / "__pycache__" / Path(pyc.path).name).write_bytes(pack.read(pyc))
    (tmp_path / "mod.py").write_text("VALUE = 42  # not looked at: the byte code is of the unchecked kind\n")
    ran = subprocess.run(
        [sys.executable, "-B", "-c", "import mod; print(mod.VALUE)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "41\n"
