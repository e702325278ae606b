"""A tree that lasts and can be written: its own file system, its quota the kernel's, and nothing left of it behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.testing import Node, eventually
from fildes.testing.programs import write_program

from .conftest import census
from .test_sqlite import ask, instances

PROGRAM = """
import fcntl
import mmap
import os
import sqlite3
import tempfile
from urllib.parse import unquote

TREE = "/data/tree"
OPEN = []
os.makedirs(f"{TREE}/made/while/loading", exist_ok=True)


async def act(path):
    verb, _, rest = unquote(path).strip("/").partition("/")
    try:
        return str(globals()["do_" + verb](rest))
    except (OSError, sqlite3.Error) as error:
        return f"{type(error).__name__}: {error}"


def do_write(name):
    with tempfile.NamedTemporaryFile("w", dir=TREE, delete=False) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("kept")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, f"{TREE}/{name}")
    return "kept"


def do_list(rest):
    return sorted(os.listdir(TREE))


def do_everything(rest):
    os.mkdir(f"{TREE}/folder")
    with open(f"{TREE}/folder/file", "w+b") as file:
        file.write(bytes(8192))
        file.flush()
        with mmap.mmap(file.fileno(), 8192) as mapped:
            mapped[:5] = b"hello"
    os.link(f"{TREE}/folder/file", f"{TREE}/linked")
    os.symlink("linked", f"{TREE}/symbolic")
    os.utime(f"{TREE}/symbolic", (1, 2))
    os.chmod(f"{TREE}/linked", 0o640)
    with tempfile.TemporaryFile(dir=TREE) as file:
        file.write(b"nameless")
    folder = os.open(f"{TREE}/folder", os.O_RDONLY)
    names = [entry.name for entry in os.scandir(folder)]
    os.unlink("file", dir_fd=folder)
    os.fsync(folder)
    os.close(folder)
    os.rename(f"{TREE}/folder", f"{TREE}/renamed")
    os.rmdir(f"{TREE}/renamed")
    with open(f"{TREE}/symbolic", "rb") as file:
        return names, file.read(5), os.stat(f"{TREE}/linked").st_mode & 0o777


def do_outside(rest):
    found = []
    for path in ("/app/new", "/data/new", "/new", "/dev/null/new", "/data/tree/../new"):
        try:
            open(path, "w").close()
            found.append(path)
        except OSError:
            continue
    for path, link in ((f"{TREE}/device", 0o20666), (f"{TREE}/disk", 0o60666)):
        try:
            os.mknod(path, link, os.makedev(1, 3))
            found.append(path)
        except OSError:
            continue
    return found


def do_execute(rest):
    with open(f"{TREE}/code", "w+b") as file:
        file.write(bytes(4096))
        file.flush()
        return mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)


def do_fill(rest):
    with open(f"{TREE}/big", "wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(1 << 20))


def do_database(rest):
    db = sqlite3.connect(f"{TREE}/inside.sqlite3")
    with db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE IF NOT EXISTS t (x)")
        db.execute("INSERT INTO t VALUES (1)")
    (count,) = db.execute("SELECT count(*) FROM t").fetchone()
    db.close()
    return count


def do_open(rest):
    OPEN.append(open(f"{TREE}/open", "w"))
    return "open"
"""
GRANT = '[grants.tree]\nkind = "files"\npath = "/data/tree"\nquota = "32MiB"\n'


def disks(node: Node) -> list[str]:
    """The loop devices of files below the node's state."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = path.read_text()
        except OSError:
            continue
        found += [file] if file.startswith(str(node.state)) else []
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node() as node:
        node.fildes("publish", str(write_program(tmp_path_factory.mktemp("tree"), "scratch", PROGRAM, GRANT)))
        yield node


def test_what_programs_do_with_files_works_in_it(home: Node) -> None:
    assert ask(home, "scratch", "/write/one") == "kept"
    assert ask(home, "scratch", "/list") == "['made', 'one']"
    assert ask(home, "scratch", "/everything") == "(['file'], b'hello', 416)"
    assert ask(home, "scratch", "/database") == "1"
    assert ask(home, "scratch", "/open") == "open"
    assert not census(home).unexplained


def test_nothing_else_can_be_written_and_nothing_in_it_executed(home: Node) -> None:
    assert ask(home, "scratch", "/outside") == "[]"
    assert ask(home, "scratch", "/execute").startswith("PermissionError")


@pytest.mark.root
def test_the_kernel_keeps_the_quota(home: Node) -> None:
    assert ask(home, "scratch", "/fill") == "OSError: [Errno 28] No space left on device"
    image = home.state / "data" / "local" / "scratch" / "tree" / "image"
    assert image.stat().st_size == 32 << 20
    assert len(disks(home)) == 1
    assert ask(home, "scratch", "/list").count("big") == 1


def test_two_releases_see_one_tree(home: Node, tmp_path: Path) -> None:
    """While one drains, both have it: one file system, not two on one disk."""
    assert ask(home, "scratch", "/write/before") == "kept"
    home.fildes("publish", str(write_program(tmp_path, "scratch", PROGRAM, GRANT + '[env]\nA = "2"\n')))
    assert "'before'" in ask(home, "scratch", "/list")
    assert len(disks(home)) <= 1
    assert ask(home, "scratch", "/write/after") == "kept"


def test_it_is_there_after_kills_and_its_disk_is_gone_with_the_processes(tmp_path: Path) -> None:
    with Node() as node:
        node.fildes("publish", str(write_program(tmp_path, "scratch", PROGRAM, GRANT)))
        assert ask(node, "scratch", "/write/one") == "kept"
        for instance in instances(node, "scratch"):
            os.kill(instance["pid"], signal.SIGKILL)
        node.kill("orchestrator")
        assert ask(node, "scratch", "/list") == "['made', 'one']"
        os.kill(node.init, signal.SIGKILL)
        node.wait()
        node.stop()
        eventually(lambda: not disks(node), 10, "the loop device is gone")
        node.start()
        assert ask(node, "scratch", "/list") == "['made', 'one']"
        node.fildes("rm", "scratch", "--data")
        assert not (node.state / "data" / "local" / "scratch").exists()


@pytest.mark.root
def test_a_disk_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    with Node() as node:
        folder = node.state / "data" / "local" / "scratch" / "tree"
        folder.mkdir(parents=True)
        for path in (folder, *folder.parents[:3]):
            os.chown(path, *[(node.state / "data").stat().st_uid] * 2)
        image = folder / "image"
        image.write_bytes(b"half a file system" * 1000)
        os.truncate(image, 32 << 20)
        image.chmod(0o600)
        os.chown(image, *[folder.stat().st_uid] * 2)
        node.fildes("publish", str(write_program(tmp_path, "scratch", PROGRAM, GRANT)))
        assert ask(node, "scratch", "/write/one") == "kept"
