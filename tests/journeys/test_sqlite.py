"""A database that lasts: through Python's own sqlite3 under the plain path, over kills of everything, in every mode."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.testing import Node, eventually
from fildes.testing.node import NodeFailed
from fildes.testing.programs import write_program

from .conftest import census, told

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = """
import os
import sqlite3
from urllib.parse import unquote

PATH = "/data/db.sqlite3"


async def act(path):
    verb, _, rest = unquote(path).strip("/").partition("/")
    db = sqlite3.connect(PATH, timeout=20)
    try:
        return str(globals()["do_" + verb](db, rest))
    except sqlite3.Error as error:
        return f"{type(error).__name__}: {error}"
    finally:
        db.close()


def do_mode(db, mode):
    return db.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0]


def do_add(db, word):
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS word (word TEXT, more BLOB)")
        db.execute("INSERT INTO word VALUES (?, zeroblob(9000))", (word,))
    return "kept"


def do_count(db, rest):
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS counter (n INTEGER)")
    for _ in range(int(rest)):
        with db:
            db.execute("BEGIN IMMEDIATE")
            (n,) = db.execute("SELECT coalesce(sum(n), 0) FROM counter").fetchone()
            db.execute("DELETE FROM counter")
            db.execute("INSERT INTO counter VALUES (?)", (n + 1,))
    return os.getpid()


def do_counted(db, rest):
    return db.execute("SELECT n FROM counter").fetchone()[0]


def do_words(db, rest):
    return " ".join(word for (word,) in db.execute("SELECT word FROM word ORDER BY rowid"))


def do_sound(db, rest):
    return db.execute("PRAGMA integrity_check").fetchone()[0]


def do_files(db, rest):
    return sorted(os.listdir("/data"))


def do_sdk(db, rest):
    from fildes import sdk

    with sdk.open("db") as own:
        return own.execute("SELECT count(*) FROM word").fetchone()[0]


def do_fill(db, rest):
    db.execute("CREATE TABLE IF NOT EXISTS heap (more BLOB)")
    for _ in range(int(rest)):
        with db:
            db.execute("INSERT INTO heap VALUES (randomblob(1000000))")
    return "there was room"
"""
DB = '[grants.random]\n[grants.db]\nkind = "sqlite"\n'


def ask(node: Node, service: str, path: str) -> str:
    answer = node.request(path, host=f"{service}.localhost", timeout=30)
    assert answer.status == 200, answer.body
    return answer.body.decode()


def instances(node: Node, service: str) -> list[dict[str, Any]]:
    [found] = told(node, "ps", service)["services"]
    listed: list[dict[str, Any]] = found["instances"]
    return [instance for instance in listed if instance["pid"]]


@pytest.fixture(scope="module")
def home() -> Iterator[Node]:
    with Node() as node:
        yield node


@pytest.fixture
def keeper(home: Node, tmp_path: Path) -> Iterator[str]:
    """A service with an empty database."""
    home.fildes("publish", str(write_program(tmp_path, "keeper", PROGRAM, DB)))
    yield "keeper"
    home.fildes("rm", "keeper", "--data")


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_what_was_acknowledged_survives_a_storm_of_kills(home: Node, keeper: str, mode: str) -> None:
    assert ask(home, keeper, f"/mode/{mode}") == mode
    kept: list[str] = []
    over = threading.Event()

    def write() -> None:
        for number in range(100_000):
            if over.is_set():
                return
            with contextlib.suppress(OSError, AssertionError):  # killed under it: not acknowledged
                if ask(home, keeper, f"/add/{number}") == "kept":
                    kept.append(str(number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(12):
            if number % 4 == 3:
                told(home, "stop", keeper)  # five crashes in ten seconds would be its end
            had = len(kept)
            eventually(lambda had=had: len(kept) > had + 1, 20, "it writes again")
            for instance in instances(home, keeper):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(instance["pid"], signal.SIGKILL)
    finally:
        over.set()
        writer.join()
    there = ask(home, keeper, "/words").split()
    assert ask(home, keeper, "/sound") == "ok"
    assert set(kept) <= set(there)
    assert len(there) == len(set(there)), "one was written twice"
    assert not census(home).unexplained


def test_two_releases_that_write_at_once_lose_nothing(home: Node, keeper: str, tmp_path: Path) -> None:
    """While the older one drains both hold the database: SQLite's locks hold between them."""
    for mode in ("delete", "wal"):
        assert ask(home, keeper, f"/mode/{mode}") == mode
        asked = [threading.Thread(target=ask, args=(home, keeper, "/count/150"))]
        asked[0].start()
        manifest = DB + f'[env]\nMODE = "{mode}"\n'
        home.fildes("publish", str(write_program(tmp_path, "keeper", PROGRAM, manifest)))
        asked += [threading.Thread(target=ask, args=(home, keeper, "/count/150")) for _ in range(2)]
        for thread in asked[1:]:
            thread.start()
        for thread in asked:
            thread.join()
    assert ask(home, keeper, "/counted") == "900"
    assert ask(home, keeper, "/sound") == "ok"


def sign(node: Node, name: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"name={name}&text=hello".encode()
    assert node.request("/", host="guestbook.localhost", method="POST", body=body, headers=form).status == 303


def guests(node: Node) -> list[str]:
    page = node.request("/", host="guestbook.localhost").body.decode()
    return [name for name in ("Ada", "Bob", "Eve") if f"<b>{name}</b>" in page]


def test_databases_and_guests_are_there_after_everything_ended(tmp_path: Path) -> None:
    with Node() as node:
        node.fildes("publish", str(write_program(tmp_path, "keeper", PROGRAM, DB)))
        node.fildes("publish", str(EXAMPLES / "guestbook"))
        assert ask(node, "keeper", "/files") == "['db.sqlite3']"  # opening it made it
        for word in ("one", "two"):
            assert ask(node, "keeper", f"/add/{word}") == "kept"
        sign(node, "Ada")
        for instance in instances(node, "guestbook"):
            os.kill(instance["pid"], signal.SIGKILL)
        assert guests(node) == ["Ada"]
        node.stop()
        node.start()
        assert ask(node, "keeper", "/words") == "one two"
        sign(node, "Bob")
        os.kill(node.init, signal.SIGKILL)
        node.wait()
        node.stop()
        node.start()
        assert ask(node, "keeper", "/add/three") == "kept"
        sign(node, "Eve")
        node.kill("storage")
        assert ask(node, "keeper", "/words") == "one two three"
        assert ask(node, "keeper", "/sdk") == "3"
        assert guests(node) == ["Ada", "Bob", "Eve"]
        assert not census(node).unexplained


def test_a_backup_goes_on_when_the_driver_is_killed_under_it(home: Node, keeper: str, tmp_path: Path) -> None:
    assert ask(home, keeper, "/fill/60") == "there was room"
    copy = tmp_path / "copy.sqlite3"
    backup = threading.Thread(target=home.fildes, args=("db", "backup", keeper, "db", str(copy)))
    backup.start()
    partial = eventually(lambda: [file for file in tmp_path.iterdir() if ".copy.sqlite3." in file.name], 10)
    eventually(lambda: copy.exists() or partial[0].stat().st_size > 0, 10)
    home.kill("storage")
    backup.join()
    with contextlib.closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM heap").fetchone() == (60,)
    assert [file.name for file in tmp_path.iterdir() if "copy" in file.name] == ["copy.sqlite3"]


def test_another_service_of_the_owner_may_read_and_not_write(home: Node, keeper: str, tmp_path: Path) -> None:
    assert ask(home, keeper, "/add/one") == "kept"
    reader = write_program(tmp_path, "reader", PROGRAM, f'{DB}of = "keeper"\n')
    home.fildes("publish", str(reader))
    try:
        assert ask(home, "reader", "/words") == "one"
        assert ask(home, "reader", "/add/two") == "OperationalError: attempt to write a readonly database"
        assert ask(home, keeper, "/add/three") == "kept"
        assert ask(home, "reader", "/words") == "one three"
    finally:
        home.fildes("rm", "reader")


def test_what_has_no_room_is_refused_and_what_is_there_stays(home: Node, tmp_path: Path) -> None:
    manifest = DB + 'quota = "64MiB"\n[limits]\nmemory = "256MiB"\n'
    home.fildes("publish", str(write_program(tmp_path, "full", PROGRAM, manifest)))
    try:
        assert ask(home, "full", "/add/one") == "kept"
        assert ask(home, "full", "/fill/80") == "OperationalError: database or disk is full"
        assert (home.state / "data" / "local" / "full" / "db" / "db").stat().st_size <= 64 << 20
        assert ask(home, "full", "/words") == "one"
        assert ask(home, "full", "/sound") == "ok"
    finally:
        home.fildes("rm", "full", "--data")


def test_a_backup_is_whole_while_writes_go_on_and_is_put_back(home: Node, keeper: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    for mode in ("delete", "wal"):
        assert ask(home, keeper, f"/mode/{mode}") == mode
        assert ask(home, keeper, "/add/before") == "kept"
        counting = threading.Thread(target=ask, args=(home, keeper, "/count/100"))
        counting.start()
        home.fildes("db", "backup", keeper, "db", str(copy))
        counting.join()
        with contextlib.closing(sqlite3.connect(copy)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
            words = [word for (word,) in db.execute("SELECT word FROM word")]
        assert ask(home, keeper, "/add/after") == "kept"
        home.fildes("db", "restore", keeper, "db", str(copy))
        assert ask(home, keeper, "/words").split() == words
        assert ask(home, keeper, "/sound") == "ok"
    assert told(home, "db", "list", keeper)["items"][0]["grant"] == "db"


def test_what_is_no_database_is_not_restored(home: Node, keeper: str, tmp_path: Path) -> None:
    assert ask(home, keeper, "/add/one") == "kept"
    copy = tmp_path / "copy.sqlite3"
    home.fildes("db", "backup", keeper, "db", str(copy))
    damaged = bytearray(copy.read_bytes())
    damaged[4096:4196] = os.urandom(100)
    for name, data in (("empty", b""), ("text", b"hello" * 1000), ("cut", damaged[:6000]), ("damaged", bytes(damaged))):
        bad = tmp_path / name
        bad.write_bytes(data)
        with pytest.raises(NodeFailed, match=r"no database|not a sound database"):
            home.fildes("db", "restore", keeper, "db", str(bad))
    with pytest.raises(NodeFailed, match="no database under the grant 'other'; those there are: db"):
        home.fildes("db", "backup", keeper, "other", str(copy))
    with pytest.raises(NodeFailed, match="can't be written"):
        home.fildes("db", "backup", keeper, "db", str(tmp_path / "nowhere" / "copy"))
    assert ask(home, keeper, "/words") == "one"


def test_a_hostile_database_harms_nobody(home: Node, keeper: str, tmp_path: Path) -> None:
    """A program may write what it likes into its file. Who copies it is confined; the node goes on."""
    assert ask(home, keeper, "/add/one") == "kept"
    file = home.state / "data" / "local" / keeper / "db" / "db"
    sound = file.read_bytes()
    before = home.daemons()["storage"]
    for seed in range(6):
        data = bytearray(sound)
        for at in range(100 + seed, len(data), 97):
            data[at] = (data[at] * 7 + seed) % 256
        file.write_bytes(data)
        home.fildes("db", "backup", keeper, "db", str(tmp_path / "copy"), check=False)
    file.write_bytes(b"no database " * 1000)
    with pytest.raises(NodeFailed, match="could not be copied: file is not a database"):
        home.fildes("db", "backup", keeper, "db", str(tmp_path / "copy"))
    assert home.daemons()["storage"] == before
    good = tmp_path / "good"
    good.write_bytes(sound)
    home.fildes("db", "restore", keeper, "db", str(good))  # over what is no database any more
    assert ask(home, keeper, "/words") == "one"


def test_removing_a_service_keeps_its_data_unless_it_is_said(home: Node, tmp_path: Path) -> None:
    folder = str(write_program(tmp_path, "brief", PROGRAM, DB))
    home.fildes("publish", folder)
    assert ask(home, "brief", "/add/one") == "kept"
    assert "fildes rm brief --data" in home.fildes("rm", "brief").stdout
    home.fildes("publish", folder)
    assert ask(home, "brief", "/words") == "one"
    home.fildes("rm", "brief")
    home.fildes("rm", "brief", "--data")
    assert not (home.state / "data" / "local" / "brief").exists()
    with pytest.raises(NodeFailed, match="there is no service 'brief'"):
        home.fildes("rm", "brief", "--data")


def test_a_database_that_is_opened_too_early_is_explained(home: Node, tmp_path: Path) -> None:
    early = write_program(tmp_path, "early", 'import sqlite3\nsqlite3.connect("/data/db.sqlite3")\n', DB)
    with pytest.raises(NodeFailed, match="a granted database is there when the program serves"):
        home.fildes("publish", str(early))
