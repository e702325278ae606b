"""What the CLI prints."""

from __future__ import annotations

import pytest

from fildes.cli import _render, caps, ps


def test_columns() -> None:
    text = _render.table(["NAME", "N"], [["a", 1], ["漢字", 22], [None, "x"]], indent=" ")
    assert text.splitlines() == [" NAME  N", " a     1", " 漢字  22", "       x"]


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123456, "123 kB"), (5e12, "5000 GB")]
)
def test_size(count: float | None, text: str) -> None:
    assert _render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h")]
)
def test_span(seconds: float, text: str) -> None:
    assert _render.span(seconds) == text


def test_milliseconds() -> None:
    assert [_render.milliseconds(ms) for ms in (0.25, 12.3, 1234)] == ["0.2 ms", "12 ms", "1.23 s"]


SERVICE = {
    "service": "shop", "state": "running", "runtime": "asgi", "hosts": ["shop.localhost"], "starts": 3, "crashes": 1,
    "urls": ["http://shop.localhost:8080/"], "note": "ended by signal 9", "zygote": 11,
    "most": 2, "spares": 0, "commands": [],
    "instances": [{"id": "4f", "pid": 12, "started": 1000.0, "memory": 1_500_000, "stage": "full"}],
}  # fmt: skip


def test_services() -> None:
    lines = ps.services([SERVICE], 1065.0).splitlines()
    assert lines[0].split() == ["SERVICE", "STATE", "RUNTIME", "INSTANCES", "PID", "MEMORY", "STARTS", "URL"]
    assert " 1/2 " in lines[1] and "3, 1 crashes" in lines[1] and lines[1].endswith("http://shop.localhost:8080/")
    assert lines[2].split() == ["4f", "1", "min", "5", "s", "full", "12", "1.5", "MB"]
    assert lines[-1] == "shop: ended by signal 9"
    assert "fildes publish DIR" in ps.services([], 0)


def test_an_unexplained_descriptor_stands_out() -> None:
    process = {
        "name": "instance 4f", "pid": 12, "error": "",
        "fds": [
            {"fd": 0, "target": "/dev/null", "kind": "device", "why": "runtime"},
            {"fd": 7, "target": "socket:[99]", "kind": "socket", "why": ""},
        ],
    }  # fmt: skip
    grants = [{"name": "clock", "kind": "clock", "to": None}, {"name": "db", "kind": "connect", "to": "ledger"}]
    text = caps.shown(
        {"service": "shop", "state": "running", "runtime": "asgi", "grants": grants, "processes": [process]}
    )
    assert "grants: clock, db (connect) → ledger" in text
    assert "instance 4f, pid 12" in text
    assert text.splitlines()[-1].split() == ["7", "socket:[99]", "UNEXPLAINED"]


def test_addresses_of_the_kernels_tables() -> None:
    assert caps._address("0100007F:1F90") == "127.0.0.1:8080"
    assert caps._address("00000000000000000000000001000000:0050") == "[::1]:80"
    assert caps._address("0000000000000000FFFF00000100007F:0050") == "127.0.0.1:80"
