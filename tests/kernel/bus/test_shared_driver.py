"""The drivers shared and inspect in child processes, and what holders can do with what they hand out."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from stage import Daemon, Stage

from fildes.capabilities.clock.face import PAGE, Clock
from fildes.capabilities.random.face import Random
from fildes.daemon.peer import Peer, Refused
from fildes.init.table import DAEMONS
from fildes.kernel import memfd
from fildes.kernel.fds import Fd
from fildes.wire.drivers import FdTable, Inspect, Inspected, Open, Opened, read_tables


class Shared:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.driver: Daemon = stage.daemon("shared", "fildes.drivers.shared.__main__")
        self.driver.start()
        self.peer: Peer = stage.as_bus("shared")

    def open(self, kind: str) -> list[Fd]:
        return self.stage.run(self.peer.ask("shared.open", Open(kind, kind, {}, "r", "shop"), reply=Opened)).fds


@pytest.fixture
def shared(stage: Stage) -> Iterator[Shared]:
    yield Shared(stage)


def test_a_clock_tells_the_time_to_the_millisecond(shared: Shared) -> None:
    timer, page = shared.open("clock")
    with timer, page:
        clock = Clock(timer.fileno(), page.fileno())
        for _ in range(3):
            before = time.time_ns()
            told = clock.time_ns()
            assert before - 2_000_000 <= told <= time.time_ns() + 1_000_000
        first = clock.ticks()
        end = time.monotonic() + 0.05
        shared.stage.until(lambda: time.monotonic() > end, "fifty milliseconds")
        assert 49 <= clock.ticks() - first <= 1000
        assert os.get_blocking(timer.fileno()) is False


def test_all_holders_share_a_beginning_and_nothing_that_one_could_change(shared: Shared) -> None:
    one, other = shared.open("clock"), shared.open("clock")
    pages = [one[1], other[1]]
    with one[0], other[0], one[1], other[1]:
        assert os.pread(pages[0].fileno(), PAGE.size, 0) == os.pread(pages[1].fileno(), PAGE.size, 0)
        os.lseek(pages[0].fileno(), 7, os.SEEK_SET)
        assert os.lseek(pages[1].fileno(), 0, os.SEEK_CUR) == 0  # positions are their own
        os.read(one[0].fileno(), 8)
        assert len(os.read(other[0].fileno(), 8)) == 8  # and ticks
        for page in pages:
            with pytest.raises(OSError):
                os.write(page.fileno(), b"x")
            with pytest.raises(PermissionError):
                mmap.mmap(page.fileno(), 4096)
            with pytest.raises(OSError):
                os.ftruncate(page.fileno(), 0)
            with pytest.raises(OSError):
                fcntl.fcntl(page.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="setting the clock needs root")
def test_clocks_follow_when_the_machines_clock_is_set_also_by_a_restarted_driver(shared: Shared) -> None:
    timer, page = shared.open("clock")

    def writes() -> int:
        count: int = PAGE.unpack(os.pread(page.fileno(), PAGE.size, 0))[4]
        return count

    def set_clock() -> None:
        """To what it is: that is "set" too, and does no harm beyond a few microseconds."""
        before = writes()
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
        except PermissionError:
            pytest.skip("this root may not set the clock (CAP_SYS_TIME)")
        shared.stage.until(lambda: writes() > before and writes() % 2 == 0, "the page to be written again")

    with timer, page:
        set_clock()
        set_clock()
        shared.driver.restart()
        set_clock()
        assert abs(Clock(timer.fileno(), page.fileno()).time_ns() - time.time_ns()) < 5_000_000


def test_the_wall_time_survives_a_restart_for_old_and_new_holders(shared: Shared) -> None:
    old_timer, old_page = shared.open("clock")
    shared.driver.restart()
    new_timer, new_page = shared.open("clock")
    with old_timer, old_page, new_timer, new_page:
        for timer, page in ((old_timer, old_page), (new_timer, new_page)):
            assert abs(Clock(timer.fileno(), page.fileno()).time_ns() - time.time_ns()) < 5_000_000
        assert os.fstat(old_page.fileno()).st_ino == os.fstat(new_page.fileno()).st_ino


def test_randomness_comes_from_a_description_of_its_own(shared: Shared) -> None:
    (one,), (other,) = shared.open("random"), shared.open("random")
    with one, other:
        random = Random(one.fileno())
        assert len({random.bytes(16) for _ in range(100)}) == 100
        assert len(random.bytes(100_000)) == 100_000
        assert random.bytes(0) == b""
        assert {random.below(3) for _ in range(200)} == {0, 1, 2}
        assert random.below(1) == 0
        assert len(random.token()) == 32
        with pytest.raises(ValueError):
            random.below(0)
        os.set_blocking(one.fileno(), False)
        assert os.get_blocking(other.fileno())
        with pytest.raises(OSError):
            os.write(one.fileno(), b"seed")


def test_other_kinds_are_refused(shared: Shared) -> None:
    with pytest.raises(Refused, match="not 'secret'"):
        shared.open("secret")


def test_ten_thousand_opens_leave_no_descriptor_behind(shared: Shared) -> None:
    for fd in shared.open("clock"):
        fd.close()
    before = shared.driver.open_fds()
    mine = len(os.listdir("/proc/self/fd"))
    for _ in range(5000):
        for kind in ("clock", "random"):
            for fd in shared.open(kind):
                fd.close()
    # It closes its own copy only after we have ours.
    shared.stage.until(lambda: shared.driver.open_fds() <= before, "the count of descriptors to be what it was")
    assert len(os.listdir("/proc/self/fd")) == mine


# — inspect —


def ask(stage: Stage, peer: Peer, *pids: int) -> list[FdTable]:
    answer = stage.run(peer.ask("inspect.fds", Inspect(list(pids)), reply=Inspected))
    with answer.fds[0] as tables:
        return read_tables(memfd.read_sealed(tables.fileno()))


def inspector(stage: Stage) -> tuple[Daemon, Peer]:
    driver = stage.daemon("inspect", "fildes.drivers.inspect.__main__")
    if os.geteuid() == 0:
        driver.keep = next(daemon.keep for daemon in DAEMONS if daemon.name == "inspect")
    driver.start()
    return driver, stage.as_bus("inspect")


def test_inspect_tells_what_each_descriptor_is(stage: Stage) -> None:
    _, peer = inspector(stage)
    reader, writer = (Fd(number) for number in os.pipe())
    null, directory = Fd.open("/dev/null", os.O_RDWR), Fd.open("/", os.O_RDONLY)
    kept = memfd.sealed("thing", b"0123456789")
    sock, other = socket.socketpair()
    os.lseek(kept.fileno(), 4, os.SEEK_SET)
    with reader, writer, null, directory, kept, sock, other:
        (table,) = ask(stage, peer, os.getpid())
        told = {entry.fd: entry for entry in table.fds}
        kinds = {fd.fileno(): told[fd.fileno()].kind for fd in (reader, writer, null, directory, kept)}
        assert list(kinds.values()) == ["pipe", "pipe", "device", "directory", "memfd"]
        assert told[sock.fileno()].kind == "socket"
        assert any(entry.kind == "eventpoll" for entry in table.fds)
        assert (told[null.fileno()].target, told[kept.fileno()].pos) == ("/dev/null", 4)
        assert told[null.fileno()].flags & os.O_CLOEXEC
        assert table.error == ""


def test_inspect_says_of_each_process_why_it_could_not_look(stage: Stage) -> None:
    driver, peer = inspector(stage)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    gone, mine = ask(stage, peer, child, os.getpid())
    assert (gone.pid, gone.fds, gone.error) == (child, [], "the process has ended")
    assert mine.fds
    for pids in ([0], [-1], list(range(1, 5000))):
        with pytest.raises(Refused, match="pids at a time"):
            ask(stage, peer, *pids)
    before = driver.open_fds()
    for _ in range(100):
        ask(stage, peer, os.getpid(), 1)
    stage.until(lambda: driver.open_fds() <= before, "the count of descriptors to be what it was")


def test_the_page_is_laid_out_as_the_trap_reads_it() -> None:
    assert PAGE.size == struct.calcsize("<qqqqq") == 40
