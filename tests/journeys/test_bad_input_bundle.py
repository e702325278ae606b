"""Folders that can't be published, disks that are full, and a command line that is killed: nothing half-done."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fildes.cli._client import Client
from fildes.cli._shared import Trouble
from fildes.kernel import memfd
from fildes.testing import Node, eventually, write_program


def services(node: Node) -> set[str]:
    return {service["service"] for service in json.loads(node.fildes("ps", "--json").stdout)["services"]}


def refused(node: Node, folder: Path, *words: str) -> str:
    """`fildes publish` says no, in words, and there is no such service."""
    done = node.fildes("publish", str(folder), *words, check=False)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert folder.name not in services(node)
    return done.stderr


# — what the command line refuses before anything is sent —


def test_a_symlink_out_of_the_folder(house: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "linker")
    (folder / "passwd").symlink_to("/etc/passwd")
    assert "linker/passwd: a symlink that leads out of the folder" in refused(house, folder)
    (folder / "passwd").unlink()
    (folder / "up").symlink_to("../../etc")
    assert "leads out of the folder" in refused(house, folder)


def test_a_named_pipe_and_a_device(house: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "piper")
    os.mkfifo(folder / "fifo")
    assert "piper/fifo: a named pipe can't be published; remove it" in refused(house, folder)
    (folder / "fifo").unlink()
    if os.geteuid() == 0:
        os.mknod(folder / "null", 0o666 | 0o020000, os.makedev(1, 3))
        assert "piper/null: a device can't be published; remove it" in refused(house, folder)


def test_a_name_that_is_not_utf_8(house: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "latin")
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "wb"):
        assert "name is not UTF-8; rename it" in refused(house, folder)


def test_a_folder_that_is_too_large(house: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "heavy")
    with open(folder / "sparse", "wb") as file:
        file.truncate(513 << 20)
    assert "sparse: with it the folder has more than 512 MiB" in refused(house, folder)


def test_no_folder_at_all(house: Node, tmp_path: Path) -> None:
    assert "No such file or directory" in refused(house, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "nothing in it to publish" in refused(house, tmp_path / "empty")


# — what a command line of somebody's own sends —


def member(name: str | bytes, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
    info.type, info.linkname, info.size = kind, link, len(data)
    return info


EVIL = {
    "climbs": ([member("../../evil")], "../../evil"),
    "absolute": ([member("/etc/evil")], "/etc/evil"),
    "symlink out": ([member("a", tarfile.SYMTYPE, "../../../etc/passwd")], "a: a symlink"),
    "absolute symlink": ([member("a", tarfile.SYMTYPE, "/etc/passwd")], "a: a symlink"),
    "symlinks in a ring": ([member("a", tarfile.SYMTYPE, "b"), member("b", tarfile.SYMTYPE, "a")], "a"),
    "through a symlink": ([member("a", tarfile.SYMTYPE, "."), member("a/b")], "a"),
    "hard link out": ([member("a", tarfile.LNKTYPE, "/etc/passwd")], "a"),
    "device": ([member("dev", tarfile.CHRTYPE)], "dev: a character device can't be published"),
    "pipe": ([member("pipe", tarfile.FIFOTYPE)], "pipe: a named pipe can't be published"),
    "not UTF-8": ([member(b"caf\xe9")], "UTF-8"),
    "twice": ([member("a"), member("a")], "twice"),
}


def send(node: Node, archive: bytes, **body: object) -> str:
    """Publish bytes as they are; what the node answers, "" if it took them."""
    with Client(str(node.state)) as client:
        try:
            client.ask(
                "publish", {"name": None, "owner": None, "upgrade": False, **body}, [memfd.sealed("evil", archive)]
            )
        except Trouble as trouble:
            return str(trouble)
    return ""


def tar(members: list[tarfile.TarInfo], folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for name in ("main.py", "fildes.toml"):
            archive.add(folder / name, name)
        for info in members:
            archive.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize("case", EVIL)
def test_the_node_believes_no_upload(house: Node, tmp_path: Path, case: str) -> None:
    members, words = EVIL[case]
    folder = write_program(tmp_path, "evil")
    text = send(house, tar(members, folder))
    assert words in text, text
    assert "evil" not in services(house)


def test_noise_and_half_an_archive(house: Node, tmp_path: Path) -> None:
    whole = tar([member("data", data=b"")], write_program(tmp_path, "noise"))
    for archive in (b"", b"\0" * 4096, os.urandom(8192), whole[:700]):
        assert send(house, archive), archive[:16]
    assert "noise" not in services(house)


def test_the_owner_s_quota(house: Node, tmp_path: Path) -> None:
    house.fildes("policy", "pauper", "program_bytes=100000", "storage=100000000")
    folder = write_program(tmp_path, "bulky")
    (folder / "data.bin").write_bytes(os.urandom(200_000))
    assert "a asgi service may have 100,000" in refused(house, folder, "--owner", "pauper").replace("an asgi", "a asgi")
    house.fildes("policy", "pauper", "program_bytes=100000000", "storage=100000")
    assert "this owner's files would take" in refused(house, folder, "--owner", "pauper")


# — a disk that is full —


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90m,mode=755", "small", str(disk)], check=True, timeout=10)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True, timeout=10)


@pytest.mark.root
def test_a_full_disk(small_disk: Path, tmp_path: Path, start_node: Callable[..., Node]) -> None:
    with Node(small_disk / "state") as node:
        node.fildes("publish", str(write_program(tmp_path, "calm")))
        folder = write_program(tmp_path, "large")
        (folder / "data.bin").write_bytes(os.urandom(4 << 20))
        free = os.statvfs(small_disk)
        for left in (0, 2 << 20, 6 << 20):  # where it is noticed differs
            with open(small_disk / "filler", "wb") as filler:
                os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize - left)
            text = refused(node, folder)
            assert "state is full: nothing was changed; free some space" in text or "disk is full" in text, text
            assert node.request("/", host="calm.localhost").body == b"ok"
            (small_disk / "filler").unlink()
        node.fildes("stop", "calm")
        assert node.request("/", host="calm.localhost").body == b"ok"
        node.fildes("publish", str(folder))
        assert node.request("/", host="large.localhost").body == b"ok"
        # Nothing of the refused ones stayed.
        kept = [p for p in (small_disk / "state" / "publish").rglob("*") if p.is_file() and p.stat().st_size > 1 << 20]
        assert kept == []


# — a command line that is killed —


@pytest.mark.parametrize("after", [0.02, 0.15, 0.6])
def test_kill_9_of_the_command_line(house: Node, tmp_path: Path, after: float) -> None:
    folder = write_program(tmp_path, "orphan", "import time; time.sleep(1)")
    words = [sys.executable, "-m", "fildes.cli", "publish", str(folder)]
    environment = {**os.environ, "FILDES_STATE": str(house.state)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(after + 0.05)  # 50 ms to begin
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    # Either it was taken back whole or it went on whole; then it can be published as ever.
    jobs = house.state / "publish" / "jobs"
    eventually(lambda: not list(jobs.iterdir()), 10, "the scratch is empty")
    began = time.monotonic()
    done = house.fildes("publish", str(folder), timeout=20)
    assert "orphan" in done.stdout
    assert time.monotonic() - began < 10
    assert house.request("/", host="orphan.localhost").body == b"ok"
    releases = json.loads(house.fildes("releases", "orphan", "--json").stdout)["releases"]
    assert [r["state"] for r in releases if r["state"] == "candidate"] == []
    house.fildes("rm", "orphan")


# — a second node on the same state —


def test_up_twice(house: Node) -> None:
    daemons = house.daemons()
    done = house.fildes("up", "--http", "127.0.0.1:0", check=False, timeout=20)
    assert done.returncode == 1
    assert f"a node runs there already, as process {house.pid}: end it with `fildes down" in done.stderr
    assert house.daemons() == daemons
    assert house.fildes("ps").returncode == 0


@pytest.mark.parametrize("words", [["--load-limit", "0"], ["--load-limit", "soon"], ["--http", "nowhere:x"]])
def test_up_with_options_that_can_not_be(tmp_path: Path, house: Node, words: list[str]) -> None:
    done = house.fildes("up", "--state", str(tmp_path / "other"), *words, check=False, timeout=20)
    assert done.returncode in (1, 2)
    assert words[0] in done.stderr or words[1] in done.stderr
    assert "Traceback" not in done.stderr
