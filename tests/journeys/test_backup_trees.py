"""Trees of files in a backup, and back again: as root and as an ordinary user, from either to the other."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.testing import Node, eventually
from fildes.testing.programs import write_program

from .test_ordinary_user import SOMEBODY, installed, public_python
from .test_scratch import disks
from .test_sqlite import ask

TREE = '[grants.tree]\nkind = "files"\npath = "/data/tree"\nquota = "32MiB"\n'
PROGRAM = """
import os
import threading
from urllib.parse import unquote

TREE = "/data/tree"
OVER = threading.Event()


async def act(path):
    verb, _, rest = unquote(path).strip("/").partition("/")
    try:
        return str(globals()["do_" + verb](rest))
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def do_fill(rest):
    os.makedirs(f"{TREE}/folder/inner")
    with open(f"{TREE}/folder/file", "w") as file:
        file.write("kept " * 1000)
    os.chmod(f"{TREE}/folder/file", 0o640)
    os.utime(f"{TREE}/folder/file", ns=(1, 1234567890123456789))
    os.link(f"{TREE}/folder/file", f"{TREE}/another")
    os.symlink("/etc/passwd", f"{TREE}/outside")
    os.symlink("folder/file", f"{TREE}/within")
    with open(os.fsencode(TREE) + b"/not \\xff text\\n", "w") as file:
        file.write("named")
    with open(f"{TREE}/sparse", "wb") as file:
        file.seek(1 << 35)
        file.write(b"end")
    deep = f"{TREE}/deep"
    for _ in range(60):
        deep += "/" + "d" * 20
    os.makedirs(deep)
    with open(f"{deep}/bottom", "w") as file:
        file.write("reached")
    os.chmod(f"{TREE}/folder/inner", 0o500)
    os.utime(f"{TREE}/folder/inner", (5, 5))
    return "filled"


def do_look(rest):
    found = []
    for folder, folders, files in os.walk(os.fsencode(TREE)):
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if b"/deep/" in path and not path.endswith(b"bottom"):
                continue
            time = status.st_mtime_ns if status.st_mtime_ns in (1234567890123456789, 5 * 10**9) else 0
            target = os.readlink(path) if os.path.islink(path) else b""
            found.append((path[-20:], oct(status.st_mode), status.st_size * (not os.path.isdir(path)), time, target))
    same = os.path.samefile(f"{TREE}/another", f"{TREE}/folder/file")
    with open(f"{TREE}/sparse", "rb") as file:
        file.seek(1 << 35)
        end = file.read()
    blocks = os.stat(f"{TREE}/sparse").st_blocks
    return sorted(found), same, end, blocks < 64, os.statvfs(TREE).f_blocks * os.statvfs(TREE).f_frsize


def do_write(name):
    with open(f"{TREE}/{name}", "w") as file:
        file.write("kept")
    return "kept"


def do_storm(rest):
    \"\"\"Names that become something else all the time, and files that grow and shrink.\"\"\"

    def rage():
        number = 0
        os.makedirs(f"{TREE}/storm", exist_ok=True)
        while not OVER.is_set():
            number += 1
            name = f"{TREE}/storm/{number % 7}"
            try:
                if number % 5 == 0:
                    os.symlink("/etc", name)
                elif number % 5 == 1:
                    os.mkdir(name)
                else:
                    with open(name, "ab") as file:
                        file.write(b"within" * 50_000)
                        file.truncate(10)
            except OSError:
                pass
            try:
                os.rename(name, f"{TREE}/storm/{number % 3}")
            except OSError:
                pass
            try:
                os.unlink(name)
            except OSError:
                try:
                    os.rmdir(name)
                except OSError:
                    pass

    OVER.clear()
    for _ in range(2):
        threading.Thread(target=rage, daemon=True).start()
    return "raging"


def do_calm(rest):
    OVER.set()
    return "calm"
"""


class User:
    """Runs `fildes` as root does, or as SOMEBODY; `folder` is theirs."""

    def __init__(self, folder: Path, launcher: list[str], environment: dict[str, str]) -> None:
        self.folder, self.launcher, self.environment = folder, launcher, environment

    def node(self, state: Path) -> Node:
        return Node(state, launcher=self.launcher, environment=self.environment)

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | self.environment
        command = [*self.launcher, *words]
        return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def root() -> Iterator[User]:
    with tempfile.TemporaryDirectory(prefix="fildes-test-") as name:
        Path(name).chmod(0o755)
        yield User(Path(name), [sys.executable, "-m", "fildes.cli"], {})


@pytest.fixture(scope="module")
def somebody() -> Iterator[User]:
    if os.geteuid() != 0:
        pytest.skip("needs root, which may become somebody else")
    with tempfile.TemporaryDirectory(prefix="fildes-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        python = public_python()
        installed(folder, python)
        home = folder / "home"
        home.mkdir()
        os.chown(home, SOMEBODY, SOMEBODY)
        become = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "--"]
        environment = {"PYTHONPATH": name, "HOME": str(home)}
        yield User(home, [*become, python, "-m", "fildes.cli"], environment)


def saved(user: User) -> tuple[Path, str]:
    """A backup of a node with a tree, and what its program sees of it. The node is gone."""
    state = user.folder / "state"
    with user.node(state) as node:
        program = write_program(user.folder, "keeper", PROGRAM, TREE)
        node.fildes("publish", str(program))
        assert ask(node, "keeper", "/fill") == "filled"
        seen = ask(node, "keeper", "/look").rpartition(", ")[0]
        file = user.folder / "node.backup"
        done = user.run("backup", str(file), "--state", str(state))
        assert done.returncode == 0, done.stderr
        assert b"left out" not in done.stderr
        assert file.stat().st_size < 32 << 20  # holes are no bytes
    shutil.rmtree(state)
    return file, seen


@pytest.fixture(scope="module")
def of_root(root: User) -> tuple[Path, str]:
    return saved(root)


@pytest.fixture(scope="module")
def of_somebody(somebody: User) -> tuple[Path, str]:
    return saved(somebody)


def restored(user: User, backup: tuple[Path, str]) -> None:
    """What was saved, by whomever, is what this user's node has, and goes on from."""
    file, seen = backup
    copy = user.folder / "copy"
    shutil.copyfile(file, copy)
    copy.chmod(0o644)
    state = user.folder / "restored"
    done = user.run("restore", str(copy), "--state", str(state))
    assert done.returncode == 0, done.stderr
    try:
        with user.node(state) as node:
            node.fildes("repack", "keeper")  # the other user's Python may be another
            look = ask(node, "keeper", "/look")
            assert look.rpartition(", ")[0] == seen
            size = int(look.rpartition(", ")[2].rstrip(")"))
            folder = state / "data" / "local" / "keeper" / "tree"
            if os.stat(state).st_uid == 0:
                assert (folder / "image").stat().st_size == 32 << 20
                assert size < 32 << 20
            else:
                assert (folder / "tree").is_dir()
            assert os.listdir(folder) in (["image"], ["tree"])
            assert ask(node, "keeper", "/write/folder/file") == "kept"
            assert "it keeps tree (files)" in node.fildes("ps", "keeper").stdout
            node.fildes("rm", "keeper")
            assert "tree" in node.fildes("db", "list", "keeper").stdout
            assert "keeper   local  tree" in node.fildes("gc", "--dry-run", "--data").stdout
            assert "data of 1 removed service gone" in node.fildes("gc", "--data", "--yes").stdout
            assert not folder.exists()
    finally:
        shutil.rmtree(state, ignore_errors=True)


@pytest.mark.root
def test_a_tree_of_root_is_back_as_a_file_system(root: User, of_root: tuple[Path, str]) -> None:
    restored(root, of_root)


@pytest.mark.root
def test_a_tree_of_root_is_back_as_a_folder_of_an_ordinary_user(somebody: User, of_root: tuple[Path, str]) -> None:
    restored(somebody, of_root)


def test_a_tree_of_an_ordinary_user_is_back(somebody: User, of_somebody: tuple[Path, str]) -> None:
    restored(somebody, of_somebody)


@pytest.mark.root
def test_a_tree_of_an_ordinary_user_is_back_as_a_file_system(root: User, of_somebody: tuple[Path, str]) -> None:
    restored(root, of_somebody)


@pytest.mark.root
def test_what_is_no_whole_backup_restores_nothing(root: User, of_root: tuple[Path, str], tmp_path: Path) -> None:
    """Not where a tree is cut off, nor where it leads elsewhere, though its sum is right."""
    whole = of_root[0].read_bytes()
    with tarfile.open(of_root[0]) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
        [(tree, _)] = [found for found in members if found[0].name.endswith("/tree.tar")]
    evil = tmp_path / "evil"
    evil.mkdir()
    cases = {
        "cut off": (whole[: tree.offset_data + 5000], b"cut off"),
        "one byte": (whole[: tree.offset_data + 5000] + b"?" + whole[tree.offset_data + 5001 :], b"as it was written"),
        "no tree": (_with(members, tree, b"hello" * 1000), b"no tree that can be restored"),
        "above": (_with(members, tree, TOP + member("../../evil/x", data=b"x") + END), b"no path within a tree"),
        "through a link": (
            _with(members, tree, TOP + member("a", tarfile.SYMTYPE, str(evil)) + member("a/x", data=b"x") + END),
            b"nothing was restored",
        ),
    }
    for name, (data, said) in cases.items():
        (tmp_path / "file").write_bytes(data)
        done = root.run("restore", str(tmp_path / "file"), "--state", str(tmp_path / "state"))
        assert done.returncode == 1 and said in done.stderr, (name, done.stderr)
        assert b"Traceback" not in done.stderr and b"nothing was restored" in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["evil", "file"] and os.listdir(evil) == [], name
    files = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [file for file in files if str(tmp_path) in file]


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"", **records: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.pax_headers = kind, target, len(data), {"mtime": "1"} | records
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


TOP = member(".", tarfile.DIRTYPE, **{"FILDES.quota": str(32 << 20)})
END = bytes(1024)


def _with(members: list[tuple[tarfile.TarInfo, bytes]], changed: tarfile.TarInfo, data: bytes) -> bytes:
    """The backup with another member, and an end that agrees with it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        sums = {}
        for info, old in members[:-1]:
            content = data if info.name == changed.name else old
            sums[info.name] = len(content), hashlib.sha256(content).hexdigest()
            new = tarfile.TarInfo(info.name)
            new.size = len(content)
            tar.addfile(new, io.BytesIO(content))
        end = tarfile.TarInfo(members[-1][0].name)
        content = json.dumps({"members": sums}).encode()
        end.size = len(content)
        tar.addfile(end, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.root
def test_a_backup_of_a_storm_holds_nothing_from_outside(root: User) -> None:
    """Who is killed over it leaves nothing; and afterwards the service goes on."""
    state = root.folder / "storm"
    file = root.folder / "storm.backup"
    with root.node(state) as node:
        node.fildes("publish", str(write_program(root.folder, "stormy", PROGRAM, TREE)))
        assert ask(node, "stormy", "/storm") == "raging"
        for _ in range(2):
            done = root.run("backup", str(file), "--state", str(state))
            assert done.returncode in (0, 1) and b"Traceback" not in done.stderr, done.stderr
            data = file.read_bytes()
            assert b"root:x:0:0" not in data and b"stormy" in data
        assert ask(node, "stormy", "/calm") == "calm"
        program = root.folder / "stormy"
        node.fildes("rm", "stormy")
        eventually(lambda: not disks(node), 10, "nobody has it mounted")
        before = set(os.listdir(root.folder))
        for seconds in (0.2, 0.3):
            command = [*root.launcher, "backup", str(root.folder / "killed"), "--state", str(state)]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            threading.Timer(seconds, process.send_signal, (signal.SIGKILL,)).start()
            process.wait(20)
        assert set(os.listdir(root.folder)) - {"killed"} == before
        eventually(lambda: not disks(node), 10, "the loop device is gone")
        node.fildes("publish", str(program))
        assert ask(node, "stormy", "/write/after") == "kept"
    shutil.rmtree(state)
