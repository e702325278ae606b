"""Programs and owners that misuse what lasts: more room than they have, locks for ever, everybody's places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.kernel.libc import NR
from fildes.testing import Node, write_program

from .test_hostile_tenants import REBEL, TENANT, ask

pytestmark = pytest.mark.root

GRANT = """
    [grants.db]
    kind = "sqlite"
    quota = "1MiB"
"""
FILES = """
import fcntl, sqlite3, struct

def kept():
    found = []
    for fd in range(3, 100):
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError:
            continue
        if flags & os.O_ACCMODE == os.O_RDWR and flags & os.O_NOFOLLOW:
            found.append(fd)
    return found

def lock_all():
    for fd in kept():
        fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    return "locked"

def put():
    db = sqlite3.connect("/data/db.sqlite3")
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS t (x)")
    db.close()
    return "put"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    above = tmp_path_factory.mktemp("data")
    with Node() as node:
        for name, source in (("keeper", TENANT + FILES), ("rebel", TENANT + FILES + REBEL)):
            node.fildes("publish", str(write_program(above, name, source, GRANT)))
        yield node


@pytest.mark.parametrize("who", ["keeper", "rebel"])
def test_no_room_on_the_disk_beyond_the_quota(node: Node, who: str) -> None:
    for mode in (0x01, 0x11, 0x20):  # FALLOC_FL_KEEP_SIZE, with _ZERO_RANGE, FALLOC_FL_INSERT_RANGE
        asked = f"[call({NR['fallocate']}, fd, {mode}, 0, 256 << 20) for fd in kept()]"
        assert ask(node, who, asked) == ["-ENOTSUP"] * 4
    taken = sum(path.stat().st_blocks * 512 for path in (node.state / "data").rglob("*"))
    assert taken < 4 << 20


def test_one_name_after_the_other_is_no_more_room(node: Node, tmp_path: Path) -> None:
    """What a program kept under the name of a grant that its manifest had before counts."""
    node.fildes("policy", "mallory", f"data={6 << 20}")
    for number in range(3):
        grant = GRANT.replace("db]", f"db{number}]").replace("1MiB", "4MiB")
        path = f"/data/db{number}.sqlite3"
        source = f"""
            import sqlite3
            async def act(path):
                db = sqlite3.connect("{path}")
                db.execute("CREATE TABLE t (x)")
                db.execute("INSERT INTO t VALUES (zeroblob(3 << 20))")
                db.commit()
                db.close()
                return "kept"
        """
        folder = str(write_program(tmp_path, "hoard", source, grant))
        done = node.fildes("publish", folder, "--owner", "mallory", check=False)
        if number:
            assert done.returncode == 1 and "are no more counts too" in done.stderr, done.stderr
        else:
            assert node.request("/", host="hoard.localhost").body == b"kept"
    node.fildes("rm", "hoard", "--data")
    node.fildes("publish", folder, "--owner", "mallory")


def test_a_lock_for_ever_keeps_no_others_from_being_saved(node: Node, tmp_path: Path) -> None:
    assert ask(node, "keeper", "put()") == "put"
    assert ask(node, "rebel", "os.write(kept()[0], b'x' * 4096)") == 4096
    assert ask(node, "rebel", "lock_all()") == "locked"
    done = node.fildes("backup", str(tmp_path / "all"), check=False)
    assert done.returncode == 1 and "NOT in it: local/rebel/db: " in done.stderr
    assert "local/keeper" not in done.stderr
    restored = tmp_path / "restored"
    node.fildes("restore", str(tmp_path / "all"), "--state", str(restored))
    assert (restored / "data/local/keeper/db/db").stat().st_size
    assert not (restored / "data/local/rebel").exists()
