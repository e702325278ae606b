"""What `fildes up` makes of addresses, uids and its state directory, before anything is started."""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
from pathlib import Path

import pytest

from fildes.cli import _shared as cli
from fildes.cli import up
from fildes.init import doors, ground, layout, world
from fildes.init.ground import Busy, Ground, Trouble


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:80", ("::1", 80)),
        (":0", ("", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]):
    assert doors.parse_address(text) == address


@pytest.mark.parametrize("text", ["", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "::1:80", "a:70000", "a:-1"])
def test_addresses_that_are_none(text: str):
    with pytest.raises(Trouble, match=r"write an address and a port, like"):
        doors.parse_address(text)


@pytest.mark.parametrize("text", ["example.invalid:80", "127.0.0.300:80", "192.0.2.1:0"])
def test_addresses_that_are_not_this_machine_s(text: str):
    with pytest.raises(Trouble, match=f"--http {text}: "):
        doors.open_http(text)


def test_a_listening_socket():
    fd, address = doors.open_http("127.0.0.1:0")
    with fd, socket.socket(fileno=os.dup(fd.fileno())) as sock:
        assert not os.get_blocking(fd.fileno())
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) > 0
        assert address == f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(Trouble, match="another program listens there"):
            doors.open_http(address)


def test_every_address_is_two_sockets_and_nothing_stays_open_after_trouble():
    opened = doors.open_all([":0", "127.0.0.1:0"])
    try:
        first, *more, last = [address for _, address in opened]
        assert first.startswith("0.0.0.0:") and last.startswith("127.0.0.1:")
        assert all(address == f"[::]:{first.rpartition(':')[2]}" for address in more)  # none without IPv6
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(Trouble, match="another program listens there"):
            doors.open_all(["127.0.0.1:0", last])
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        for fd, _ in opened:
            fd.close()


def settings_of(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    up.arguments(parser)
    return up._settings(parser.parse_args(words))


def test_proxies_and_limits():
    told = settings_of("--proxy", "127.0.0.1", "--proxy", "10.1.2.3/8=proxy-protocol", "--client-connections", "0")
    assert told["proxies"] == [("127.0.0.1/32", "x-forwarded"), ("10.0.0.0/8", "proxy-protocol")]
    assert told["client_connections"] == 0 and told["access_log"] is False


@pytest.mark.parametrize("words", [("--proxy", "x"), ("--proxy", "::1=http"), ("--client-connections", "-1")])
def test_options_of_the_door_that_cannot_be(words: tuple[str, str]):
    with pytest.raises(cli.Trouble, match=rf"{words[0]} {words[1]}: "):
        settings_of(*words)


ALL = "         0          0 4294967295\n"
ONE = "      1000       1000          1\n"
CONTAINER = "         0     100000      65536\n"


@pytest.mark.parametrize(("uid_map", "base"), [(ALL, 1_900_000_000), (CONTAINER, 40_000), (ONE, None), ("", None)])
def test_the_range_of_uids_fits_the_map(uid_map: str, base: int | None):
    assert world.uid_base(uid_map) == base


def test_the_state_directory_is_taken_once_and_says_by_whom(tmp_path: Path):
    state = str(tmp_path / "new")
    first = Ground.take(state)
    try:
        assert os.stat(state).st_mode & 0o777 == 0o700
        assert (tmp_path / "new/VERSION").read_text() == f"{layout.VERSION}\n"
        assert ground.holder(first.directory.fileno()) == os.getpid()
        with pytest.raises(
            Busy, match=rf"a node runs there already, as process {os.getpid()}: end it with `fildes down"
        ):
            Ground.take(state)
        directory = first.directory.dup()
    finally:
        first.close()
    with directory:
        assert ground.holder(directory.fileno()) is None
    Ground.take(state).close()


def test_the_lock_file_alone_is_not_believed(tmp_path: Path):
    Ground.take(str(tmp_path)).close()
    (tmp_path / "lock").write_text("1\n")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert ground.holder(fd) is None
        with open(tmp_path / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert ground.holder(fd) is None  # somebody holds it, but not process 1
    finally:
        os.close(fd)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(Trouble, match=r"this is not a state directory, but holds thesis.tex: name an empty directory"):
        Ground.take(str(tmp_path))
    assert not (tmp_path / "VERSION").exists()


def test_a_state_directory_of_a_later_version_is_left_alone(tmp_path: Path):
    Ground.take(str(tmp_path)).close()
    (tmp_path / "VERSION").write_text("7\n")
    with pytest.raises(Trouble, match=r"its layout has version 7, this Fildes knows 2: use the Fildes that wrote it"):
        Ground.take(str(tmp_path))


def test_a_state_directory_that_can_not_be(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Trouble, match="name a directory that you may write to"):
        Ground.take(str(tmp_path / "file" / "below"))


def test_a_control_socket_at_the_end_of_a_long_path(tmp_path: Path):
    state = tmp_path / ("x" * 120) / ("y" * 120)
    taken = Ground.take(str(state))
    try:
        with doors.open_control(taken.directory.fileno(), for_all=False):
            assert os.stat(state / "control").st_mode & 0o777 == 0o600
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(doors.control_path(taken.directory.fileno()))
        with doors.open_control(taken.directory.fileno(), for_all=False):  # in place of the stale one
            pass
    finally:
        taken.close()


def test_an_older_layout_becomes_todays_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "VERSION").write_text("1\n")
    Ground.take(str(tmp_path)).close()
    assert (tmp_path / "VERSION").read_text() == f"{layout.VERSION}\n"
    assert (tmp_path / "data").is_dir()
    # A step that fails leaves the version from which it is tried again.
    (tmp_path / "data").rmdir()
    (tmp_path / "VERSION").write_text("1\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fildes.init.ground.STEPS", {1: full})
    with pytest.raises(Trouble, match="from version 1 to 2: No space left on device"):
        Ground.take(str(tmp_path))
    assert (tmp_path / "VERSION").read_text() == "1\n"


@pytest.mark.parametrize("text", ["0", "99", "-1", "two", "1.5"])
def test_a_layout_that_is_not_known_is_left_alone(tmp_path: Path, text: str):
    (tmp_path / "VERSION").write_text(text)
    with pytest.raises(Trouble, match="use the Fildes that wrote it"):
        Ground.take(str(tmp_path))
    assert (tmp_path / "VERSION").read_text() == text
