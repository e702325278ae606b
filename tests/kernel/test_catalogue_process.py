"""The catalogue as init starts it: its own process, its own filter, killed and started again under its askers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.daemon import start
from fildes.kernel.fds import Fd, close_all, seqpacket_pair
from fildes.kernel.loop import Loop
from fildes.kernel.memfd import read_sealed, sealed
from fildes.wire import catalogue as wire
from fildes.wire.drivers import Open, Opened

sys.path.insert(0, str(Path(__file__).parent))

from catalogue_bench import Bus, app, static


class Process(Bus):
    """A catalogue in a process of its own; `kill` and `run` as init would."""

    def __init__(self, state: Path) -> None:
        state.mkdir()
        self.state = state
        # Both ends stay with "init": what was sent to a killed catalogue waits for the next.
        self.near, far = seqpacket_pair(1 << 20)
        self.kept, self.given = seqpacket_pair()
        super().__init__(Loop(), far)
        self.pid = 0
        self.run()

    def run(self) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.far.close()
                self.kept.close()
                state = Fd.open(str(self.state), os.O_RDONLY | os.O_DIRECTORY)
                settings = {"uid_base": 500_000, "http": ["127.0.0.1:8080"]}
                inheritance = start.Inheritance("catalogue", self.near, self.given, {"state": state}, settings)
                status = start.run("fildes.catalogue.__main__", inheritance)
            finally:
                os._exit(status)

    def end(self, number: int) -> int:
        os.kill(self.pid, number)
        return os.waitpid(self.pid, 0)[1]

    def close(self) -> None:
        self.end(signal.SIGKILL)
        super().close()
        close_all([self.near, self.kept, self.given])
        self.loop.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "state")
    try:
        yield process
    finally:
        process.close()


def test_everything_works_under_the_filter(process: Process) -> None:
    first = process.publish(app("a"), os.urandom(3 << 20), bundle=os.urandom(2 << 20))
    status = Path(f"/proc/{process.pid}/status").read_text().split()
    assert (status[status.index("Seccomp:") + 1], status[status.index("NoNewPrivs:") + 1]) == ("2", "1")
    process.publish(static("site"))
    for n in range(7):
        second = process.publish(app("a"), bundle=b"%d" % n)
    process.ask("debug", "secret_set", wire.SecretSet("a", "key"), [sealed("v", b"value")], wire.Done)
    third = process.publish(app("a", more='[grants.key]\nkind = "secret"\n'))
    _, (fd,) = process.ask("bus", "open", Open("secret", "key", {}, third.release, "a"), reply=Opened)
    with fd:
        assert read_sealed(fd.fileno()) == b"value"
    assert process.ask("debug", "rollback", wire.Rollback("a"), reply=wire.Published)[0].release == second.release
    _, (fd,) = process.ask("orchestrator", "pack", wire.Pack(second.release), reply=wire.Packed)
    with fd:
        assert os.pread(fd.fileno(), 99, 0) == b"pack of 6"
    process.ask("debug", "policy_set", wire.PolicySet("anna", wire.Policy(suffixes=["*"])), reply=wire.Done)
    process.ask("debug", "secret_rm", wire.SecretRemove("a", "key"), reply=wire.Done)
    process.ask("debug", "remove", wire.Remove("site"), reply=wire.Removed)
    assert process.routes() == {"a.localhost/": second.release}
    assert first.release not in str(process.ask("debug", "releases", wire.Releases("a"), reply=wire.ReleaseList))


def test_killed_and_started_again_it_goes_on_counting(process: Process) -> None:
    published = process.publish(app("a"))
    number, _ = process.snapshot("web")
    process.end(signal.SIGKILL)
    promise = process.start("web", "subscribe", wire.Subscribe(), reply=wire.Snapshot)
    process.events.clear()
    process.run()
    answer, fds = process.loop.run_until(promise)  # it waited in the channel
    close_all(fds)
    assert answer.number == number
    assert process.deltas("web") == [wire.RouteDelta(number, number)]
    assert process.routes() == {"a.localhost/": published.release}
    process.publish(app("a"), bundle=b"2")
    assert wire.follow(number, process.deltas("web")[-1]) == "apply"


def test_killed_while_a_program_is_warmed(process: Process) -> None:
    first = process.publish(app("a"))
    process.warm = lambda release: os.kill(process.pid, signal.SIGKILL) or {}
    process.start_publish(app("a"), bundle=b"2")
    while len(process.warmed) < 2:
        process.loop.turn()
    os.waitpid(process.pid, 0)
    process.warm = lambda release: {}
    process.run()
    assert process.routes() == {"a.localhost/": first.release}
    assert process.deltas("orchestrator")[-2].gone == [process.warmed[1].id]
    second = process.publish(app("a"), bundle=b"2")
    assert process.routes() == {"a.localhost/": second.release}


def test_it_ends_with_its_channel(tmp_path: Path) -> None:
    process = Process(tmp_path / "state")
    process.publish(app("a"))
    Bus.close(process)
    process.near.close()
    assert os.waitpid(process.pid, 0)[1] == 0
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["catalogue.db", "objects", "spare", "tmp"]
    close_all([process.kept, process.given])
    process.loop.close()


def test_what_it_cannot_open_it_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"garbage" * 1000)
    near, far = seqpacket_pair()
    kept, given = seqpacket_pair()
    with Fd.open(str(tmp_path), os.O_RDONLY | os.O_DIRECTORY) as state:
        inheritance = start.Inheritance("catalogue", near, given, {"state": state}, {})
        assert start.run("fildes.catalogue.__main__", inheritance) == 1
    close_all([near, far, kept, given])
    assert "the catalogue cannot start: the database: file is not a database" in capfd.readouterr().err
