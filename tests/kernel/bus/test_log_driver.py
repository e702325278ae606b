"""The log driver in a child process, spoken to as the bus does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Daemon, Stage

from fildes.daemon.peer import Peer, Refused
from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN
from fildes.wire import log as wire


class LogStage:
    """A log driver and its only client."""

    def __init__(self, stage: Stage, path: Path, **settings: int) -> None:
        self.stage = stage
        directory = Fd.open(str(path), os.O_RDONLY | os.O_DIRECTORY)
        wanted = settings or {"files": 3, "bytes": 100_000}
        self.driver: Daemon = stage.daemon("log", "fildes.drivers.log.__main__", {"state": directory}, log=wanted)
        self.driver.start()
        self.peer: Peer = stage.as_bus("log")

    def open(self, service: str = "shop", release: str = "r1") -> Fd:
        (pipe,) = self.stage.run(self.peer.ask("log.open", wire.Open(service, release))).fds
        return pipe

    def read(self, service: str = "shop", lines: int = 10**6) -> list[str]:
        """All lines without their stamps: "who text"."""
        (pipe,) = self.stage.run(self.peer.ask("log.read", wire.Read(service, lines))).fds
        with pipe:
            data = self.collect(pipe, lambda data: False)
        return [line.partition(" ")[2] for line in data.decode(errors="replace").splitlines()]

    def collect(self, pipe: Fd, enough) -> bytes:
        """Read while the stage turns, until `enough(data)` or the end of file."""
        data = b""
        ended = False

        def readable(_: int) -> None:
            nonlocal data, ended
            part = os.read(pipe.fileno(), 1 << 16)
            data += part
            ended = ended or not part

        self.stage.loop.watch(pipe.fileno(), EPOLLIN, readable)
        self.stage.until(lambda: ended or enough(data), "lines")
        self.stage.loop.unwatch(pipe.fileno())
        return data

    def has(self, service: str, count: int) -> None:
        self.stage.until(lambda: len(self.read(service)) >= count, f"{count} lines of {service}")


@pytest.fixture
def log(stage: Stage, tmp_path: Path) -> Iterator[LogStage]:
    yield LogStage(stage, tmp_path)


def test_lines_are_stamped_with_time_and_release(log: LogStage) -> None:
    with log.open() as pipe:
        os.write(pipe.fileno(), b"hello\nworld\n")
        log.has("shop", 2)
    (reader,) = log.stage.run(log.peer.ask("log.read", wire.Read("shop"))).fds
    with reader:
        lines = log.collect(reader, lambda data: False).splitlines()
    assert re.fullmatch(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z r1 hello", lines[0])


def test_what_is_no_line_yet_waits_and_is_written_at_the_end(log: LogStage) -> None:
    pipe = log.open()
    os.write(pipe.fileno(), b"whole\nhalf")
    log.has("shop", 1)
    assert log.read() == ["r1 whole"]
    os.write(pipe.fileno(), b" and the rest\nand no line end")
    log.has("shop", 2)
    assert log.read() == ["r1 whole", "r1 half and the rest"]
    assert len(log.driver.deposits) == 1
    pipe.close()
    log.has("shop", 3)
    assert log.read()[-1] == "r1 and no line end"
    log.stage.until(lambda: len(log.driver.deposits) == 0, "the pipe to leave the store")


def test_an_unfinished_line_does_not_keep_the_driver_busy(log: LogStage) -> None:
    with log.open() as pipe:
        os.write(pipe.fileno(), b"x" * 4000)
        log.read()
        before = _cpu(log.driver.pid)
        end = time.monotonic() + 0.3
        log.stage.until(
            lambda: time.monotonic() > end or log.stage.loop.call_later(0.05, lambda: None) is None, "a while"
        )
        assert _cpu(log.driver.pid) - before <= 2  # hundredths of a second


def _cpu(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_records_of_the_system_stand_among_the_programs_own(log: LogStage) -> None:
    with log.open() as pipe:
        os.write(pipe.fileno(), b"about to fall\n")
        log.has("shop", 1)
        log.stage.run(log.peer.ask("log.append", wire.Append("shop", "instance 3 ended: killed by signal 9")))
        log.peer.tell("log.append", wire.Append("shop", "two\nlines"))
        log.has("shop", 4)
    assert log.read() == [
        "r1 about to fall",
        "fildes instance 3 ended: killed by signal 9",
        "fildes two",
        "fildes lines",
    ]


def test_nothing_is_lost_when_the_driver_is_killed_while_a_program_writes(log: LogStage) -> None:
    """A real program, writing as fast as it may, and five kills at any moment."""
    pipe = log.open()
    count = 3000
    code = f"import time\nfor n in range({count}): print('line', n, flush=True); time.sleep(0.0002)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe.fileno()) as program:
        pipe.close()
        for kill in range(5):
            log.has("shop", (kill + 1) * count // 7)
            log.driver.restart()
        log.stage.until(lambda: f"r1 line {count - 1}" in log.read(), "the last line")
        assert program.wait() == 0
    seen = [int(line.split()[2]) for line in log.read()]
    assert sorted(set(seen)) == list(range(count))
    assert len(seen) <= count * 1.1  # a kill between writing and consuming repeats a chunk, never more


def test_a_follower_is_told_across_a_restart_of_the_driver(log: LogStage) -> None:
    pipe = log.open()
    os.write(pipe.fileno(), b"one\ntwo\n")
    log.has("shop", 2)
    (reader,) = log.stage.run(log.peer.ask("log.read", wire.Read("shop", 1, follow=True))).fds
    with reader, pipe:
        assert log.collect(reader, lambda data: data.endswith(b" two\n")).count(b"\n") == 1
        log.driver.restart()
        os.write(pipe.fileno(), b"three\n")
        told = log.collect(reader, lambda data: data.endswith(b" three\n"))
        assert told.count(b" three\n") == 1
        assert told.count(b"\n") <= 2  # the last thing told before a kill may be told again; nothing is left out
    log.stage.until(lambda: len(log.driver.deposits) == 0, "both pipes to leave the store")


def test_a_slow_reader_is_shown_a_gap_and_costs_nobody_anything(stage: Stage, tmp_path: Path) -> None:
    log = LogStage(stage, tmp_path, files=2, bytes=20_000)
    pipe = log.open()
    (reader,) = stage.run(log.peer.ask("log.read", wire.Read("shop", 10, follow=True))).fds
    # More than the reader's pipe and all files hold together.
    data = b"".join(b"%06d %s\n" % (n, b"x" * 92) for n in range(3000))
    with pipe, reader:
        os.set_blocking(pipe.fileno(), False)
        view = memoryview(data)

        def write() -> bool:
            nonlocal view
            try:
                view = view[os.write(pipe.fileno(), view) :]
            except BlockingIOError:
                stage.loop.call_later(0.002, lambda: None)
            return not view

        stage.until(write, "the program to have written it all, though nobody reads")
        stage.until(lambda: any("002999" in line for line in log.read()), "the last line")
        told = log.collect(reader, lambda told: told.endswith(b"002999 " + b"x" * 92 + b"\n"))
    numbers = [int(n) for n in re.findall(rb" r1 (\d{6}) x{92}\n", told)]
    assert numbers == sorted(set(numbers))
    assert told.count(b"were deleted before they could be shown") >= 1


def test_a_program_that_writes_without_end_waits_itself_and_others_do_not(stage: Stage, tmp_path: Path) -> None:
    log = LogStage(stage, tmp_path)
    loud, quiet = log.open("loud"), log.open("quiet")
    with subprocess.Popen(["yes"], stdout=loud.fileno()) as program:
        loud.close()
        try:
            stage.until(lambda: len(log.read("loud", 1)) == 1, "the loud one")
            with quiet:
                worst = 0.0
                for number in range(20):
                    began = time.monotonic()
                    os.write(quiet.fileno(), b"%d\n" % number)
                    log.has("quiet", number + 1)
                    worst = max(worst, time.monotonic() - began)
        finally:
            program.kill()
    assert worst < 1.0  # its bursts are a few MiB, on a machine that others use too
    assert sum(path.stat().st_size for path in tmp_path.glob("loud.*")) < 3 * 100_000 + 400_000


def test_what_is_asked_wrongly_is_refused(log: LogStage) -> None:
    for ask in (
        log.peer.ask("log.open", wire.Open("../x", "r")),
        log.peer.ask("log.read", wire.Read("A")),
        log.peer.ask("log.append", wire.Append("", "x")),
        log.peer.ask("log.forget", wire.Forget("/")),
    ):
        with pytest.raises(Refused, match="not a service's name"):
            log.stage.run(ask)
    assert log.driver.alive()


def test_forget_ends_followers_and_deletes_the_files(log: LogStage, tmp_path: Path) -> None:
    with log.open() as pipe:
        os.write(pipe.fileno(), b"x\n")
        log.has("shop", 1)
    (reader,) = log.stage.run(log.peer.ask("log.read", wire.Read("shop", 10, follow=True))).fds
    with reader:
        log.stage.run(log.peer.ask("log.forget", wire.Forget("shop")))
        log.collect(reader, lambda data: False)
    assert list(tmp_path.iterdir()) == []


def test_a_thousand_pipes_and_readers_leave_no_descriptor_behind(log: LogStage) -> None:
    log.open().close()
    log.read()
    log.stage.until(lambda: len(log.driver.deposits) == 0, "the first pipe to go")
    before = log.driver.open_fds()
    for number in range(300):
        with log.open(f"s{number % 3}") as pipe:
            os.write(pipe.fileno(), b"x\n")
        log.read(f"s{number % 3}", 1)
    log.stage.until(lambda: len(log.driver.deposits) == 0, "all pipes to go")
    # Three files stay open for writing.
    log.stage.until(lambda: log.driver.open_fds() <= before + 3, "the count of descriptors to be what it was")


def test_the_bound_of_a_service_outlives_the_driver(log: LogStage, tmp_path: Path) -> None:
    (pipe,) = log.stage.run(log.peer.ask("log.open", wire.Open("shop", "r1", 30_000))).fds
    log.driver.kill()
    log.driver.start()
    with pipe:
        for number in range(1000):
            os.write(pipe.fileno(), b"%d %s\n" % (number, b"x" * 90))
    log.has("shop", 50)
    log.stage.until(lambda: "999 " in log.read()[-1], "the last line")
    assert sum(path.stat().st_size for path in tmp_path.glob("shop.*")) <= 30_000
