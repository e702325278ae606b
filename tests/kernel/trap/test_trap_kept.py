"""Files that last, through the trap: databases under plain paths, on every Python and SQLite found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kernel.trap.conftest import Instance

PLACE = "/data/db.sqlite3"


@pytest.fixture
def holder(instance: Instance, tmp_path: Path) -> Instance:
    instance.profile = "serve-sqlite"
    directory = tmp_path / "database"
    directory.mkdir()
    instance.databases = {"db": {"path": PLACE, "directory": str(directory), "writable": True}}
    return instance


def test_a_database_in_every_journal_mode(holder: Instance) -> None:
    got = holder.run(f"""
        import json, os, sqlite3
        found = []
        for mode in ("delete", "truncate", "persist", "memory", "wal", "delete"):
            one, two = (sqlite3.connect("{PLACE}", timeout=0) for _ in range(2))
            assert one.execute("PRAGMA journal_mode = " + mode).fetchone()[0] == mode
            one.execute("CREATE TABLE IF NOT EXISTS t (x)")
            one.execute("BEGIN IMMEDIATE")
            one.execute("INSERT INTO t VALUES (?)", (mode,))
            try:
                two.execute("BEGIN IMMEDIATE")
                found.append("both write at once")
            except sqlite3.OperationalError as error:
                assert str(error) == "database is locked", error
            one.rollback()
            with two:
                two.execute("INSERT INTO t VALUES (?)", (mode,))
            found.append([x for (x,) in one.execute("SELECT x FROM t")])
            assert one.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            one.close(), two.close()
        print(json.dumps(found[-1]))
    """)
    assert got.json() == ["delete", "truncate", "persist", "memory", "wal", "delete"]
    # The next process finds it; the trap of the first is gone.
    got = holder.run(f"""
        import sqlite3
        print(sqlite3.connect("{PLACE}").execute("SELECT count(*) FROM t").fetchone()[0])
    """)
    assert got.json() == 6


def test_what_there_is_and_what_not(holder: Instance) -> None:
    got = holder.run(f"""
        import errno, json, os, stat
        def tried(what, *words, **options):
            try:
                return what(*words, **options)
            except OSError as error:
                return errno.errorcode[error.errno]
        found = [os.path.exists("{PLACE}"), os.path.isdir("/data"), os.listdir("/data"), "data" in os.listdir("/")]
        found += [tried(os.stat, "{PLACE}"), tried(os.open, "{PLACE}", os.O_RDWR), tried(os.unlink, "{PLACE}")]
        fd = os.open("{PLACE}", os.O_RDWR | os.O_CREAT)
        found += [os.listdir("/data"), os.stat("{PLACE}").st_size, tried(os.open, "{PLACE}", os.O_CREAT | os.O_EXCL)]
        os.pwrite(fd, b"hello", 0)
        by_path, by_fd = os.stat("{PLACE}"), os.fstat(fd)
        found += [by_path == by_fd, stat.filemode(by_fd.st_mode), by_fd.st_size, by_fd.st_mtime]
        copy = os.dup(fd)
        found += [os.fstat(copy).st_ino == by_path.st_ino, open("{PLACE}").read()]
        found += [tried(os.open, "{PLACE}", os.O_WRONLY | os.O_APPEND), tried(os.mkdir, "/data/more")]
        found += [tried(os.open, "/data/other", os.O_CREAT), tried(os.rename, "{PLACE}", "/data/other")]
        found += [tried(os.open, "{PLACE}/", os.O_RDWR), tried(os.rmdir, "/data"), tried(os.listdir, "{PLACE}")]
        os.chdir("/data")
        found += [os.getcwd(), os.stat("db.sqlite3").st_size, os.truncate("db.sqlite3", 2), os.fstat(fd).st_size]
        os.chmod("{PLACE}", 0o644), os.utime("{PLACE}")
        found += [tried(os.unlink, "{PLACE}"), os.path.exists("{PLACE}"), os.fstat(fd).st_size]
        folder = os.open("/data", os.O_RDONLY)
        os.fsync(folder)
        found += [os.access("/data", os.W_OK), stat.S_ISDIR(os.fstat(folder).st_mode), list(os.scandir(folder))]
        print(json.dumps(found))
    """)
    assert got.json() == [
        *(False, True, [], True, "ENOENT", "ENOENT", "ENOENT", ["db.sqlite3"], 0, "EEXIST"),
        *(True, "-rw-------", 5, 0.0, True, "hello", "EINVAL", "EROFS", "EROFS", "EROFS"),
        *("ENOTDIR", "EROFS", "ENOTDIR", "/data", 5, None, 2, None, False, 0, True, True, []),
    ]


def test_a_number_that_was_used_again_is_not_taken_for_the_database(holder: Instance) -> None:
    got = holder.run(f"""
        import json, os, select, socket
        found = []
        epoll = None
        for make in ("epoll", "socketpair", "memfd_create", "open"):
            kept = os.open("{PLACE}", os.O_RDWR | os.O_CREAT)
            os.close(kept)
            if make == "epoll":
                epoll = select.epoll()
            elif make == "socketpair":
                pair = socket.socketpair()
            elif make == "memfd_create":
                os.memfd_create("x")
            else:
                os.open("/tmp", os.O_RDONLY)
            found.append(os.fstat(kept).st_ino == os.stat("{PLACE}").st_ino)
        print(json.dumps(found))
    """)
    assert not any(got.json())


def test_two_opens_at_once_have_an_offset_each_in_python(holder: Instance) -> None:
    got = holder.run(f"""
        with open("{PLACE}", "w+b") as one, open("{PLACE}", "rb") as two:
            one.write(b"hello"), one.flush()
            print(repr((two.read(2), one.tell(), two.read())))
    """)
    assert got.out.strip() == "(b'he', 5, b'llo')", got.err


def test_a_reader_can_not_write(holder: Instance) -> None:
    holder.run(f"""
        import sqlite3
        with sqlite3.connect("{PLACE}") as db:
            db.execute("CREATE TABLE t AS SELECT 1 AS x")
    """)
    holder.databases["db"]["writable"] = False
    got = holder.run(f"""
        import sqlite3
        db = sqlite3.connect("{PLACE}")
        print(db.execute("SELECT x FROM t").fetchone()[0])
        for words in ("DELETE FROM t", "PRAGMA user_version = 1"):
            try:
                db.execute(words)
                print("written")
            except sqlite3.OperationalError as error:
                print(error)
        try:
            open("{PLACE}", "r+b")
        except PermissionError:
            print("refused")
    """)
    assert got.out.split("\n")[:4] == ["1", *["attempt to write a readonly database"] * 2, "refused"], got.err


def test_a_database_in_the_release_own_folder(holder: Instance) -> None:
    """Django's usual place is beside its settings."""
    (holder.app / "settings.py").write_text("NAME = 1\n")
    (holder.app / "db.sqlite3").write_text("what lay there when it was published")
    holder.databases["db"]["path"] = "/app/db.sqlite3"
    got = holder.run("""
        import os, sqlite3
        with sqlite3.connect("db.sqlite3") as db:
            db.execute("CREATE TABLE t (x)")
        print(sorted(os.listdir("/app")), os.stat("/app/db.sqlite3").st_size > 4000)
    """)
    assert got.out.strip() == "['__pycache__', 'db.sqlite3', 'settings.py'] True", got.err
