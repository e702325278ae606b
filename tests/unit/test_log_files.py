"""Lines and files of the log, without a driver around them."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.drivers.log.files import Files, Place
from fildes.drivers.log.lines import LONGEST, complete, stamp, stamped
from fildes.kernel.fds import Fd

PREFIX = b"T who "


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    files = open_files(tmp_path)
    yield files
    files.close()


def open_files(path: Path, segments: int = 3, size: int = 1000) -> Files:
    return Files(Fd.open(str(path), os.O_RDONLY | os.O_DIRECTORY), segments, size)


def read(files: Files, service: str, place: Place) -> bytes:
    data = b""
    number: int | None = place.segment
    offset = place.offset
    while number:
        with files.open(service, number) as fd:
            data += os.pread(fd.fileno(), 1 << 20, offset)
        number, offset = files.after(service, number), 0
    return data


# — lines —


def test_a_stamp_is_utc_with_milliseconds() -> None:
    assert stamp(1769852467.1239, b"4f2a") == b"2026-01-31T09:41:07.123Z 4f2a "


@given(st.binary(max_size=3000))
def test_every_line_is_stamped_and_nothing_steers_a_terminal(data: bytes) -> None:
    out = stamped(data, PREFIX)
    assert out.count(b"\n") == out.count(b"\n" + PREFIX) + bool(data)
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", out)
    if data:
        assert out.startswith(PREFIX) and out.endswith(b"\n")


def test_text_stays_as_it_was() -> None:
    assert stamped("grüß\tdich\r\nzwei".encode(), PREFIX) == "T who grüß\tdich\nT who zwei\n".encode()
    assert stamped(b"\n\n", PREFIX) == b"T who \nT who \n"
    assert stamped(b"\x1b[2Jgone\xff\n", PREFIX) == b"T who ?[2Jgone\xff\n"


def test_whole_lines_are_taken_and_a_piece_only_when_it_must_be() -> None:
    assert complete(b"a\nb\nrest") == 4
    assert complete(b"rest") == 0
    assert complete(b"rest", ended=True) == 4
    assert complete(b"x" * (LONGEST + 5)) == LONGEST
    assert complete(b"") == complete(b"", ended=True) == 0


def test_a_long_line_is_broken() -> None:
    out = stamped(b"x" * (2 * LONGEST + 1) + b"\nshort\n", b"")
    assert [len(line) for line in out.splitlines()] == [LONGEST, LONGEST, 1, 5]


# — files —


def test_a_service_that_writes_without_end_loses_its_own_oldest_lines_only(files: Files, tmp_path: Path) -> None:
    files.append("quiet", b"the only line\n")
    for number in range(1000):
        files.append("loud", b"line %d\n" % number)
    assert sum(path.stat().st_size for path in tmp_path.glob("loud.*")) <= 3 * 1000
    assert len(list(tmp_path.glob("loud.*"))) == 3
    lines = read(files, "loud", files.tail("loud", 10**6)).splitlines()
    assert lines[-1] == b"line 999"
    assert lines == [b"line %d" % n for n in range(1000 - len(lines), 1000)]
    assert read(files, "quiet", files.tail("quiet", 5)) == b"the only line\n"


@pytest.mark.parametrize("wanted", [0, 1, 2, 7, 50, 299, 300, 1000])
def test_tail_begins_at_the_line_asked_for(files: Files, wanted: int) -> None:
    for number in range(300):
        files.append("loud", b"%d\n" % number)
    lines = read(files, "loud", files.tail("loud", wanted)).splitlines()
    assert lines == [b"%d" % n for n in range(300)][300 - min(wanted, 300) :]


def test_tail_of_blocks_larger_than_one_read(tmp_path: Path) -> None:
    files = open_files(tmp_path, 2, 10 << 20)
    lines = [b"%d " % n + b"x" * (n % 700) + b"\n" for n in range(2000)]
    files.append("big", b"".join(lines))
    for wanted in (1, 3, 150, 1999, 2000, 2001):
        assert read(files, "big", files.tail("big", wanted)) == b"".join(lines[-wanted:])
    files.close()


def test_files_go_on_where_they_were_after_a_restart(files: Files, tmp_path: Path) -> None:
    for number in range(200):
        files.append("loud", b"line %d\n" % number)
    again = open_files(tmp_path)
    again.append("loud", b"after\n")
    assert read(again, "loud", again.tail("loud", 2)) == b"line 199\nafter\n"
    assert again.services() == ["loud"]
    again.close()


def test_a_service_without_a_log_has_an_empty_one(files: Files) -> None:
    assert files.tail("nobody", 10) == files.end("nobody") == Place(0, 0)
    assert files.after("nobody", 0) is None


def test_forget_deletes_that_service_and_no_other(files: Files, tmp_path: Path) -> None:
    files.append("shop", b"x\n")
    files.append("shop2", b"y\n")
    files.forget("shop")
    assert [path.name for path in tmp_path.iterdir()] == ["shop2.1"]
    files.append("shop", b"anew\n")
    assert read(files, "shop", files.tail("shop", 9)) == b"anew\n"


@pytest.mark.parametrize("name", ["../etc", "a/b", "", ".", "Shop", "a\n", "x" * 64])
def test_a_name_that_no_service_has_opens_no_file(files: Files, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a service's name"):
        files.append(name, b"x\n")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_directory_is_not_followed(files: Files, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "shop.1").symlink_to(target)
    with pytest.raises(OSError) as refused:
        files.append("shop", b"x\n")
    assert refused.value.errno == errno.ELOOP
    assert target.read_bytes() == b"precious"


def test_what_the_disk_does_not_take_leaves_no_half_line(tmp_path: Path) -> None:
    files = open_files(tmp_path, 2, 10 << 20)
    files.append("shop", b"first\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(OSError):
            files.append("shop", b"x" * 500 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    files.append("shop", b"second\n")
    assert read(files, "shop", files.tail("shop", 9)) == b"first\nsecond\n"
    files.close()


def test_more_services_than_files_are_kept_open(files: Files, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        files.append(f"s{number}", b"x\n")
    assert len(os.listdir("/proc/self/fd")) <= before + 65
    for number in range(200):
        files.append(f"s{number}", b"y\n")
        assert (tmp_path / f"s{number}.1").read_bytes() == b"x\ny\n"


def test_no_byte_of_a_line_steers_a_terminal() -> None:
    said = stamped("\x1b[2J \x9b2J \x85 Ç é \u0080".encode() + b" \xff\r\n", b"> ")
    assert said == "> ?[2J ?2J ? Ç é ? ".encode() + b"\xff\n"


def test_a_bound_is_of_one_service_and_holds_at_once(files: Files, tmp_path: Path) -> None:
    def size(service: str) -> int:
        return sum(path.stat().st_size for path in tmp_path.glob(f"{service}.*"))

    for _ in range(100):
        files.append("small", b"x" * 99 + b"\n")
        files.append("other", b"x" * 99 + b"\n")
    files.bound("small", 1500)
    files.bound("large", 60_000)
    assert size("small") <= 1500 < size("other")
    for _ in range(1000):
        files.append("small", b"x" * 99 + b"\n")
        files.append("large", b"x" * 99 + b"\n")
    assert size("small") <= 3 * 4096 and 50_000 < size("large") <= 60_000
