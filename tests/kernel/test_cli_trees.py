"""Trees to a tar and back, by those who do it as root: what a tenant left there, and what a stranger wrote."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fildes.cli._tree_reading import QUOTA, SPARSE, Crowded, Packer, seconds
from fildes.cli._tree_writing import DAMAGE, Damaged, Unpacker, quota_of
from fildes.kernel.fds import Fd


def packed(top: Path, most: int | None = None) -> tuple[bytes, Packer]:
    with tempfile.TemporaryFile() as spool, Fd.open(str(top), os.O_RDONLY) as folder:
        packer = Packer(spool, most)
        packer.pack(folder.fileno(), 77)
        spool.seek(0)
        return spool.read(), packer


def unpacked(data: bytes, top: Path) -> None:
    top.mkdir()
    with tempfile.TemporaryFile() as file, Fd.open(str(top), os.O_RDONLY) as folder:
        file.write(data)
        quota_of(file)
        Unpacker(file, folder.fileno(), None).run()


def account(top: Path) -> list[tuple[object, ...]]:
    found = []
    for folder, folders, files in os.walk(os.fsencode(top)):
        for name in (b".", *folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20:
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISREG(status.st_mode):
                content = status.st_size, status.st_blocks
            found.append((os.path.relpath(path, os.fsencode(top)), status.st_mode, status.st_mtime_ns, content))
    return sorted(found, key=str)


def test_all_that_is_kept_comes_back(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "folder" / "inner").mkdir(parents=True)
    (top / "folder" / "file").write_bytes(os.urandom(3000))
    os.link(top / "folder" / "file", top / "other")
    (top / "outside").symlink_to("/etc/passwd")
    (top / ("long" * 50)).write_text("long")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\n")).write_text("named")
    (top / "empty").touch()
    with open(top / "sparse", "wb") as file:
        for offset in (0, 1 << 30, 1 << 34):
            file.seek(offset)
            file.write(b"piece" * 100)
        file.truncate(1 << 36)
    os.truncate(top / "empty", 1 << 32)
    (top / "folder" / "inner").chmod(0o500)
    os.utime(top / "folder" / "file", ns=(1, 1234567890123456789))
    os.utime(top / "outside", (7, 7), follow_symlinks=False)
    os.utime(top / "folder", ns=(-1_500_000_000, -1_500_000_000))
    os.utime(top, (9, 9))
    top.chmod(0o751)
    data, packer = packed(top)
    assert packer.left_out == 0 and len(data) < 100_000
    unpacked(data, tmp_path / "again")
    assert account(tmp_path / "again") == account(top)
    assert os.path.samefile(tmp_path / "again" / "other", tmp_path / "again" / "folder" / "file")


def test_nobody_waits_for_a_pipe_and_nothing_of_ours_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").write_text("x")
    data, _ = packed(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {info.name: info.type for info in tar} == {".": b"5", "file": b"0", "link": b"2"}


def test_what_lies_too_deep_is_said_and_the_rest_is_taken(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (tmp_path / "z").write_text("the rest")
    try:
        data, packer = packed(tmp_path)
        assert packer.left_out == 1 and "too" in packer.example
        assert b"the rest" in data
    finally:  # no path leads down there
        here = os.open(tmp_path, os.O_RDONLY)
        for _ in range(2199):
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        for _ in range(2199):
            os.rmdir("d", dir_fd=here)
            above = os.open("..", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = above
        os.close(here)


def test_more_than_a_tree_can_hold_is_not_taken(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes(range(256)) * 400)
    with pytest.raises(Crowded):
        packed(tmp_path, most=200_000)
    packed(tmp_path, most=500_000)


def test_names_that_change_lead_nowhere(tmp_path: Path) -> None:
    top, secret = tmp_path / "top", tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("not for anybody")
    top.mkdir()
    over = threading.Event()

    def rage() -> None:
        (top / "spare").mkdir()
        (top / "link").symlink_to(secret)
        (top / "spare" / "file").write_text("within")
        while not over.is_set():
            os.rename(top / "spare", top / "name")
            os.rename(top / "name", top / "spare")
            os.rename(top / "link", top / "name")
            os.rename(top / "name", top / "link")

    raging = threading.Thread(target=rage)
    raging.start()
    try:
        for _ in range(150):
            data, _ = packed(top)
            assert b"not for anybody" not in data
    finally:
        over.set()
        raging.join()


# — what a stranger wrote —


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"", **records: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, target, len(data), 0o644
    info.pax_headers = {"mtime": "1.000000000", **{key.replace("_", "."): value for key, value in records.items()}}
    head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % 512)


TOP = member(".", tarfile.DIRTYPE, FILDES_quota="77")
END = bytes(1024)
TABLE = b"".join(number.to_bytes(8, "little") for number in (0, 4, 2, 4))
HOSTILE = {
    "above": member("../evil", data=b"x"),
    "absolute": member("/etc/evil", data=b"x"),
    "within": member("a/../../evil", data=b"x"),
    "no name": member("a//b", data=b"x"),
    "a file as its top": member(".", data=b"x"),
    "through a link": member("a", tarfile.SYMTYPE, "../outside") + member("a/evil", data=b"x"),
    "over a link": member("a", tarfile.SYMTYPE, "../outside/evil") + member("a", data=b"x"),
    "a folder over a link": member("a", tarfile.SYMTYPE, "../outside") + member("a", tarfile.DIRTYPE),
    "another name of ours": member("a", tarfile.LNKTYPE, "../outside/ours"),
    "another name through a link": member("a", tarfile.SYMTYPE, "..") + member("b", tarfile.LNKTYPE, "a/outside/ours"),
    "another name of a link": member("a", tarfile.SYMTYPE, "../outside/ours") + member("b", tarfile.LNKTYPE, "a"),
    "another name of nothing": member("a", tarfile.LNKTYPE, "."),
    "a device": member("a", tarfile.CHRTYPE),
    "a pipe": member("a", tarfile.FIFOTYPE),
    "a link to nothing": member("a", tarfile.SYMTYPE, ""),
    "no parent": member("a/b", data=b"x"),
    "twice": member("a", data=b"x") + member("a", data=b"y"),
    "a path without end": member("a/" * 3000 + "b", data=b"x"),
    "a time that is none": member("a", data=b"x", mtime="soon"),
    "a sparse file of one's own making": member("a", data=b"x", FILDES_sparse="1 -5"),
    "pieces that overlap": member("a", data=TABLE + b"x" * 8, FILDES_sparse="2 100"),
    "pieces beyond the end": member("a", data=TABLE[:16] + b"x" * 4, FILDES_sparse="1 2"),
    "pieces that are not there": member("a", data=TABLE[:16] + b"x", FILDES_sparse="1 100"),
    "more pieces than bytes": member("a", data=b"x", FILDES_sparse="999999999999999 100"),
    "as large as no file": member("a", data=b"", FILDES_sparse="0 9223372036854775807"),
    "GNU's sparse files": member("a", data=b"x", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
    "a header of gigabytes": member("a", data=b"x").replace(b"00000000001", b"77777777777", 1),
    "headers of headers": member("x", b"x", data=b"") * 3000,
    "cut off": member("a", data=b"x" * 5000)[:2000],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_stranger_wrote_stays_where_it_is_put(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ours").write_text("ours")
    before = account(outside)
    with pytest.raises((*DAMAGE, OSError)):
        unpacked(TOP + HOSTILE[name] + END, tmp_path / "top")
    assert account(outside) == before
    assert sorted(os.listdir(tmp_path)) == ["outside", "top"]


@pytest.mark.parametrize("begin", [b"", END, member("a", data=b"x"), member(".", tarfile.DIRTYPE, FILDES_quota="-1")])
def test_what_does_not_begin_as_a_tree_is_none(begin: bytes, tmp_path: Path) -> None:
    with pytest.raises(DAMAGE):
        unpacked(begin, tmp_path / "top")


def test_nobody_becomes_somebody_else_by_a_restored_file(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.mode, info.pax_headers = 0o6755, {"mtime": "1"}
    unpacked(TOP + info.tobuf(tarfile.PAX_FORMAT) + END, tmp_path / "top")
    assert stat.S_IMODE(os.stat(tmp_path / "top" / "a").st_mode) == 0o755


@pytest.mark.parametrize("seed", range(40))
def test_whatever_it_is_it_does_no_harm(seed: int, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "folder").mkdir(parents=True)
    for name in ("a", "folder/b"):
        (top / name).write_bytes(b"some bytes " * 50)
    (top / "link").symlink_to("../outside")
    with open(top / "sparse", "wb") as file:
        file.seek(1 << 22)
        file.write(b"x")
    data = bytearray(packed(top)[0])
    chance = random.Random(seed)
    change: Callable[[], int] = lambda: chance.choice((0, 47, 46, 255, chance.randrange(256)))  # noqa: E731
    for _ in range(chance.choice((1, 5, 40))):
        data[chance.randrange(len(data))] = change()
    (tmp_path / "outside").mkdir()
    try:
        unpacked(bytes(data), tmp_path / "again")
    except (*DAMAGE, OSError):
        pass
    assert os.listdir(tmp_path / "outside") == []
    assert sorted(os.listdir(tmp_path)) == ["again", "outside", "top"]


def test_times_are_said_exactly() -> None:
    assert [seconds(value) for value in (0, 1, -1, 10**9, -1_500_000_000)] == [
        "0.000000000",
        "0.000000001",
        "-0.000000001",
        "1.000000000",
        "-1.500000000",
    ]
    assert issubclass(Damaged, DAMAGE) and SPARSE.startswith("FILDES.") and QUOTA.startswith("FILDES.")
