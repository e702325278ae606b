from __future__ import annotations

from email.utils import formatdate

import pytest

from fildes.runtime.date import Dater, date_line


@pytest.mark.parametrize("seconds", [0, 1, 951782400, 1709164800, 1767225599, 4102444800])
def test_as_the_standard_library_writes_it(seconds: int) -> None:
    assert date_line(seconds) == f"date: {formatdate(seconds, usegmt=True)}\r\n".encode()


def test_the_clock_is_asked_twice_a_second_at_most() -> None:
    asked: list[float] = []
    now = [10.0]
    dater = Dater(lambda: now[0], lambda: asked.append(now[0]) or now[0])  # type: ignore[func-returns-value]
    for tenths in range(30):
        now[0] = 10 + tenths / 10
        assert b"1970 00:00:1" in dater.line()
    assert len(asked) == 6


def test_no_clock_no_line() -> None:
    def refused() -> float:
        raise PermissionError("no clock")

    assert Dater(lambda: 0.0, refused).line() == b""
