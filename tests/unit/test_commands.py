"""Commands of a release: their words, their leases, what is shown of them, and what is made of a health check."""

from __future__ import annotations

import signal

import pytest

from fildes.catalogue.publishing import COMMAND_SECONDS, WARM_SECONDS, failed_line, warm_seconds
from fildes.manifest import read
from fildes.orchestrator.commands import how
from fildes.orchestrator.rehearsal import failure, where
from fildes.orchestrator.tee import shown
from fildes.web.probe import MOST, request, verdict
from fildes.wire import command as wire
from fildes.wire.catalogue import Limits, Release
from fildes.wire.web import Probed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "manage.py", "migrate"], ("file", "manage.py", ["migrate"])),
        (["manage.py", "-m", "x"], ("file", "manage.py", ["-m", "x"])),
        (["python3", "-m", "pkg.mod", "-c"], ("module", "pkg.mod", ["-c"])),
        (["-mpkg"], ("module", "pkg", [])),
        (["-u", "-c", "print(1)", "a"], ("code", "print(1)", ["a"])),
        (["python"], ("console", "", [])),
        ([], ("console", "", [])),
        (["python", "python"], ("file", "python", [])),
    ],
)
def test_what_words_ask_for(words: list[str], expected: tuple[str, str, list[str]]) -> None:
    assert wire.invocation(words) == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-m"], "which module"),
        (["-c"], "which code"),
        (["-W", "error", "x.py"], "-m MODULE"),
        (["x.py", "a\0b"], "zero byte"),
        (["-c", "x" * wire.MAX_ARGUMENTS], "bytes"),
        (["x.py", *["é" * 100] * 200], "bytes"),
    ],
)
def test_words_without_a_meaning(words: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        wire.invocation(words)


def test_a_lease_carries_signals_of_terminals_only() -> None:
    for number in wire.SIGNALS:
        assert wire.decode_signal(wire.encode_signal(number)) == number
    for data in (b"", b"S", b"S\x09", b"S\x13", b"S\x02\x02", b"E\x02", b"\xff" * 5000):
        with pytest.raises(ValueError, match="lease"):
            wire.decode_signal(data)


def test_a_lease_tells_how_it_ended() -> None:
    assert wire.decode_ended(wire.encode_ended(0x300, "")) == wire.Ended(0x300, "")
    long = wire.encode_ended(9, "ä" * 5000)
    assert len(long) <= wire.MAX_DATAGRAM and wire.decode_ended(long).text.startswith("ää")
    for data in (b"", b"E", b"E\0\0\0", b"S\x02"):
        with pytest.raises(ValueError, match="lease"):
            wire.decode_ended(data)


@pytest.mark.parametrize(
    ("status", "started", "oom", "expected"),
    [
        (0, True, 0, (0, "")),
        (3 << 8, True, 0, (3 << 8, "")),
        (signal.SIGINT, True, 0, (signal.SIGINT, "")),
        (signal.SIGSEGV, True, 0, (signal.SIGSEGV, "it was killed by SIGSEGV")),
        (0x80 | signal.SIGSEGV, True, 0, (signal.SIGSEGV, "it was killed by SIGSEGV")),
        (9, True, 1, (9, "it was killed because it used more memory than [limits] memory allows")),
        (None, True, 0, (9, "it ended together with its release")),
        (255 << 8, False, 0, (1 << 8, "it could not be started; see: [limits] tasks and memory")),
        (0x7F, True, 0, (0, "")),
        (-1, True, 0, (0xFF00, "")),
        (1 << 40, True, 0, (0, "")),
    ],
)
def test_a_zygotes_word_on_a_command(status: int | None, started: bool, oom: int, expected: tuple[int, str]) -> None:
    """Whatever number a tenant says, something that waitpid(2) could have said comes of it."""
    assert how(status, started=started, oom_kills=oom) == expected


def test_lines_are_shown_without_what_steers() -> None:
    assert shown(b"\x1b[31mred\x1b[0m and \x1b]0;title\x07 bell\r") == "red and ]0;title bell"
    assert shown(b"\xff\xfe") == "\ufffd\ufffd"
    assert len(shown(b"x" * 10_000)) == 300
    assert shown("ü\x9b2J".encode()) == "ü2J"


def release(**changes: object) -> Release:
    fields: dict[str, object] = {
        "id": "0" * 12, "service": "shop", "owner": "local", "runtime": "wsgi", "entry": "a:b", "hosts": ["shop.org"],
        "env": {}, "grants": [], "limits": Limits(), "offers": [], "bundle": "", "pack": "", "abi": "", "uid": 1,
        "state": "candidate", "health": "/up",
    }  # fmt: skip
    return Release(**(fields | changes))  # type: ignore[arg-type]


def test_where_health_is_asked_for() -> None:
    assert where(release()) == ("shop.org", "/up")
    assert where(release(hosts=["a.org/shop/de", "b.org"])) == ("a.org", "/shop/de/up")
    assert where(release(hosts=[])) == ("shop.localhost", "/up")
    assert request("a.org", "/up").startswith(b"GET /up HTTP/1.1\r\nHost: a.org\r\n")


@pytest.mark.parametrize(
    ("data", "ended", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n", False, Probed(200, "it answered 200 OK")),
        (b"HTTP/1.0 404\r\n", False, Probed(404, "it answered 404")),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 \r\n", False, Probed(204, "it answered 204")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 5", False, None),
        (b"HTTP/1.1 100 Continue\r\nx: y", False, None),
        (b"HTTP/1.1 500 \x1b[2J\xff\r\n", False, Probed(500, "it answered 500 ?[2J\ufffd")),
        (b"", False, None),
        (b"HTT", False, None),
        (b"", True, Probed(0, "it closed the connection without an answer")),
        (b"HTTP/1.1 20", True, Probed(0, "its answer is no HTTP")),
        (b"SSH-2.0-OpenSSH\r\n", False, Probed(0, "its answer is no HTTP")),
        (b"HTTP/1.1 999 No\r\n", False, Probed(0, "its answer is no HTTP")),
        (b"HTTP/2 200\r\n", False, Probed(0, "its answer is no HTTP")),
        (b"a" * (MOST + 1), False, Probed(0, "its answer is no HTTP")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, False, None),
    ],
)
def test_what_is_made_of_an_answer(data: bytes, ended: bool, expected: Probed | None) -> None:
    assert verdict(data, ended) == expected


def test_a_failure_is_told_at_its_line() -> None:
    top = 'name = "shop"\nruntime = "wsgi"\nentry = "a:b"\nhealth = "/up"\n'
    text = top + 'on_release = [\n  "python a.py",\n  "python b.py",\n]\n'
    manifest = read(text.encode())
    problem = failed_line(manifest, "on_release.1", "`python b.py` ended with status 1")
    assert problem.show("fildes.toml") == "fildes.toml:7: on_release[1]: `python b.py` ended with status 1"
    assert failed_line(manifest, "health", "it answered 500").show("x") == "x:4: health: it answered 500"
    assert failed_line(manifest, "on_release.9", "?").line == 5
    assert warm_seconds(manifest) == WARM_SECONDS + 2 * COMMAND_SECONDS + manifest.limits.timeout


def test_a_failure_says_what_was_printed_last() -> None:
    assert failure("python a.py", wire.Ended(256, ""), ["one", "two"], None) == (
        "`python a.py` ended with status 1; it said last:\n    one\n    two"
    )
    assert failure("x", wire.Ended(11, "it was killed by SIGSEGV"), [], None) == (
        "`x` was killed by SIGSEGV; it printed nothing"
    )
    assert failure("x", wire.Ended(15, ""), [], 600.0) == "`x` took more than 600 s, and was ended; it printed nothing"
