"""kill -9 at every step, full disks, damaged state: nothing half-done, and what was served goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.catalogue import objects, schema
from fildes.catalogue.database import Database
from fildes.catalogue.faults import BadState
from fildes.daemon.peer import Refused
from fildes.kernel.fds import Fd
from fildes.wire import catalogue as wire

sys.path.insert(0, str(Path(__file__).parent))

from catalogue_bench import Bench, Died, app

MANY = 400  # no flow takes as many steps


class _Steps:
    """Kills this process at step `deadly`: before it, and in the middle of a write."""

    def __init__(self, deadly: int) -> None:
        self.left = deadly

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self, bench: Bench) -> None:
        for name in ("write", "fsync", "rename", "unlink", "pread"):
            setattr(objects.os, name, self._wrapped(getattr(os, name), half=name == "write"))
        bench.db._db.set_trace_callback(self)

    def _wrapped(self, call: Callable[..., Any], half: bool) -> Callable[..., Any]:
        def stepped(*args: Any, **named: Any) -> Any:
            self()
            if half:
                args = (args[0], args[1][: max(1, len(args[1]) // 2)])
            return call(*args, **named)

        return stepped


def _run_killed(state: Path, deadly: int, flow: Callable[[Bench], Any]) -> bool:
    """Do `flow` on `state` in a child that is killed at step `deadly`. Did it come to its end?"""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Bench(state) as bench:
                _Steps(deadly).install(bench)
                flow(bench)
                os._exit(0)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr)
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return not os.WIFSIGNALED(ended)


def _publish_second(bench: Bench) -> Any:
    return bench.publish(app("a", hosts='["a.localhost", "new.localhost"]'), os.urandom(3000), bundle=b"two")


def _publish_last_kept(bench: Bench) -> Any:
    return bench.publish(app("many"), os.urandom(3000), bundle=b"seventh")


def _rollback(bench: Bench) -> Any:
    return bench.ask("debug", "rollback", wire.Rollback("many"), reply=wire.Published)


def _remove(bench: Bench) -> Any:
    return bench.ask("debug", "remove", wire.Remove("many"), reply=wire.Removed)


@pytest.mark.parametrize("flow", [_publish_second, _publish_last_kept, _rollback, _remove])
def test_killed_at_every_step(tmp_path: Path, flow: Callable[[Bench], Any]) -> None:
    with Bench(tmp_path / "before") as bench:
        first = bench.publish(app("a"))
        releases = [bench.publish(app("many"), bundle=b"%d" % n).release for n in range(6)]
        untouched, before = bench.db.number(), bench.routes()
    with Bench(shutil.copytree(tmp_path / "before", tmp_path / "after")) as bench:
        flow(bench)
        after = {
            host: "new" if release not in (first.release, *releases) else release
            for host, release in bench.routes().items()
        }
    seen = set()
    for deadly in range(1, MANY):
        state = shutil.copytree(tmp_path / "before", tmp_path / str(deadly))
        done = _run_killed(state, deadly, flow)
        with Bench(state) as bench:
            bench.settle()
            bench.consistent()
            routes = {h: "new" if r not in (first.release, *releases) else r for h, r in bench.routes().items()}
            number = bench.db.number()
            # A subscriber that saw nothing of it is told that it missed something, if there is anything to miss.
            last = bench.deltas("orchestrator")[-1]
            assert wire.follow(untouched, last) == ("ignore" if number == untouched else "subscribe") or last.gone
        assert routes in (before, after)
        assert (routes == before) or number > untouched
        seen.add(routes == after)
        shutil.rmtree(state)
        if done:
            assert routes == after
            break
    else:
        pytest.fail("the flow never ended")
    assert seen == {True, False}


def test_a_killed_catalogue_gives_up_what_it_was_warming(tmp_path: Path) -> None:
    with Bench(tmp_path / "state") as bench:
        first = bench.publish(app("a"))
        second = bench.publish(app("a"), bundle=b"2")
    pid = os.fork()
    if pid == 0:
        try:
            bench = Bench(tmp_path / "state")
            bench.warm = lambda release: os.kill(os.getpid(), signal.SIGKILL)
            bench.ask("debug", "rollback", wire.Rollback("a"), reply=wire.Published)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    with Bench(tmp_path / "state") as bench:
        bench.settle()
        gone = [delta for delta in bench.deltas("orchestrator") if delta.gone]
        assert [delta.gone for delta in gone] == [[first.release]]
        assert bench.routes() == {"a.localhost/": second.release}
        bench.consistent()
        assert bench.ask("debug", "rollback", wire.Rollback("a"), reply=wire.Published)[0].release == first.release


def test_whoever_asked_hears_nothing_and_may_ask_again(tmp_path: Path) -> None:
    with Bench(tmp_path / "state") as bench:
        promise = bench.start_publish(app("a"))
        bench.loop.unwatch(bench.near.fileno())
        bench.near.close()
        with pytest.raises(Died):
            bench.loop.run_until(promise)
        bench.near = Fd.open("/dev/null", os.O_RDONLY)  # for close()
    with Bench(tmp_path / "state") as bench:
        bench.publish(app("a"))
        bench.consistent()


# — full disks —


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    from fildes.kernel import mounts

    place = tmp_path / "disk"
    place.mkdir()
    with (
        mounts.new_filesystem("tmpfs", {"size": "16m", "mode": "0700"}) as filesystem,
        Fd.open(str(place), os.O_PATH | os.O_DIRECTORY) as target,
    ):
        mounts.move_mount(filesystem.fileno(), target.fileno(), "")
    try:
        yield place
    finally:
        mounts.detach(str(place))


def _fill(place: Path, leave: int) -> Path:
    ballast = place / "ballast"
    free = os.statvfs(place)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave))
    return ballast


@pytest.mark.root
@pytest.mark.parametrize("leave", [0, 64 << 10, 1 << 20, 6 << 20])
@pytest.mark.parametrize("reserve", [objects.RESERVE, -(1 << 40)], ids=["looks first", "runs into it"])
def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch, leave: int, reserve: int) -> None:
    monkeypatch.setattr(objects, "RESERVE", reserve)
    with Bench(small_disk / "state") as bench:
        first = bench.publish(app("a"))
        number = bench.db.number()
        ballast = _fill(small_disk, leave)
        with pytest.raises(Refused) as caught:
            bench.publish(app("a"), os.urandom(5 << 20), bundle=os.urandom(4 << 20))
        assert caught.value.code == "disk-full"
        assert "Make room there" in caught.value.text
        assert bench.routes() == {"a.localhost/": first.release}
        assert bench.db.number() == number
        bench.consistent()
        ballast.unlink()
        second = bench.publish(app("a"), os.urandom(5 << 20), bundle=os.urandom(4 << 20))
        assert bench.routes() == {"a.localhost/": second.release}
        bench.consistent()


@pytest.mark.root
def test_a_disk_that_fills_between_the_files_and_the_switch(small_disk: Path) -> None:
    with Bench(small_disk / "state") as bench:
        first = bench.publish(app("a"))
        ballast: list[Path] = []

        def fill(_: wire.Release) -> dict[str, float]:
            ballast.append(_fill(small_disk, 0))
            bench.db._db.execute("PRAGMA wal_autocheckpoint = 0")
            while True:  # until the log has no room left that it could use again
                try:
                    bench.db.set_policy("x" * 60, wire.Policy())
                except Exception:
                    return {}

        bench.warm = fill
        with pytest.raises(Refused) as caught:
            bench.publish(app("a"), bundle=b"2")
        assert caught.value.code == "disk-full"
        assert bench.routes() == {"a.localhost/": first.release}
        ballast[0].unlink()
        assert bench.errors  # the candidate could not be deleted either: tried again later
        bench.publishing._abandon(bench.warmed[-1].id)
        bench.settle()
        assert bench.deltas("orchestrator")[-1].gone == [bench.warmed[-1].id]
        bench.consistent()
    with Bench(small_disk / "state") as bench:
        bench.consistent()


@pytest.mark.root
def test_a_service_can_be_removed_from_a_full_disk(small_disk: Path) -> None:
    with Bench(small_disk / "state") as bench:
        bench.publish(app("a"), os.urandom(8 << 20))
        _fill(small_disk, 0)
        bench.ask("debug", "remove", wire.Remove("a"), reply=wire.Removed)
        assert bench.routes() == {}
        bench.publish(app("b"), bundle=b"there is room again")


@pytest.mark.root
def test_it_starts_on_a_full_disk(small_disk: Path) -> None:
    with Bench(small_disk / "state") as bench:
        routes = {"a.localhost/": bench.publish(app("a")).release}
    _fill(small_disk, 0)
    with Bench(small_disk / "state") as bench:
        assert bench.routes() == routes


# — the database itself —


def _directory(path: Path) -> Fd:
    path.mkdir(exist_ok=True)
    return Fd.open(str(path), os.O_RDONLY | os.O_DIRECTORY)


def test_nobody_else_opens_it(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        pid = os.fork()
        if pid == 0:
            try:
                Database(bench.directory.fileno(), 0)
            except BadState as error:
                os._exit(0 if "locked" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert (tmp_path / "catalogue.db").stat().st_mode & 0o777 == 0o600


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    with _directory(tmp_path) as directory:
        database = Database(directory.fileno(), 0)
        database._db.execute("PRAGMA user_version = 99")
        database.close()
        with pytest.raises(schema.TooNew, match="catalogue version 99, this one knows"):
            Database(directory.fileno(), 0)


def test_a_migration_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    steps = ["CREATE TABLE a (x) STRICT;".replace(" STRICT", ""), "ALTER TABLE a ADD COLUMN y; SELECT nonsense;"]
    schema.migrate(connection, steps[:1])
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, steps)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert [row[1] for row in connection.execute("PRAGMA table_info(a)")] == ["x"]
    schema.migrate(connection, [steps[0], "ALTER TABLE a ADD COLUMN y;"])
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_the_working_directory_is_left_alone(tmp_path: Path) -> None:
    before = Path.cwd()
    with _directory(tmp_path) as directory:
        Database(directory.fileno(), 0).close()
    assert Path.cwd() == before


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"this is not a database" * 100)
    with _directory(tmp_path) as directory, pytest.raises(BadState, match="not a database"):
        Database(directory.fileno(), 0)


def test_lost_files_are_told_and_refused(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        release = bench.publish(app("a")).release
        pack = bench.warmed[0].pack
    (tmp_path / "objects" / pack).unlink()
    with Bench(tmp_path) as bench:
        assert bench.lost == [pack]
        with pytest.raises(Refused) as caught:
            bench.ask("orchestrator", "pack", wire.Pack(release))
        assert caught.value.code == "state"
        bundle = bench.snapshot("orchestrator")[1][0].bundle
        known = bench.ask("publish", "known", wire.Known("anna", bundle, "py"), reply=wire.Knowledge)[0]
        assert known.pack is None
