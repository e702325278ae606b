"""What static answers, without a socket: conditions, ranges, types, remembered plans."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.kernel.fds import Fd
from fildes.pack.collect import Source
from fildes.pack.writer import write
from fildes.pages.types import UNKNOWN, content_type
from fildes.static.answer import _normal, answer
from fildes.static.conditions import byte_range, http_date, parse_date
from fildes.static.hot import Hot
from fildes.static.plan import SMALL, Plan
from fildes.static.sites import Site, Sites
from fildes.wire.http import Head, parse


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a.html", "text/html; charset=utf-8"),
        ("/A.HTML", "text/html; charset=utf-8"),
        ("/x.tar.gz", "application/gzip"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/feed.rss", "application/rss+xml; charset=utf-8"),
        ("/i.svg", "image/svg+xml; charset=utf-8"),
        ("/p.png", "image/png"),
        ("/README", UNKNOWN),
        ("/dir.html/file", UNKNOWN),
        ("/.html", UNKNOWN),
        ("/x.weird", UNKNOWN),
    ],
)
def test_types(path, expected):
    assert content_type(path) == expected


@given(st.integers(0, 4_000_000_000))
def test_dates_come_back(seconds):
    assert parse_date(http_date(seconds).encode()) == seconds


@given(st.binary(max_size=40))
def test_no_date_harms(value):
    parse_date(value)


@given(st.integers(0, 50), st.integers(0, 60) | st.none(), st.integers(0, 60) | st.none())
def test_a_range_is_what_slicing_says(size, first, last):
    value = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    got = byte_range([(b"range", value.encode())], size, b'"x"', 0)
    data = bytes(range(size))
    if first is None and last is None:
        assert got == "whole"
    elif first is None:
        expected = data[max(0, size - last) :] if last else b""
        assert (got == "none") if not expected else data[got[0] :][: got[1]] == expected
    elif last is not None and last < first:
        assert got == "whole"
    elif first >= size:
        assert got == "none"
    else:
        assert data[got[0] :][: got[1]] == data[first : None if last is None else last + 1]


@given(st.lists(st.sampled_from([b"a", b".", b"..", b"", b"%2e", b"%2E%2e", b"b.c", b"..."]), max_size=7))
def test_normal_paths_are_normal(segments):
    raw = b"/" + b"/".join(segments)
    once = _normal(raw)
    if once is not None:
        assert once.startswith(b"/") and b"//" not in once
        assert _normal(once) == once
        assert not {b".", b"..", b"%2e", b"%2E%2e"} & set(once.split(b"/"))


@pytest.fixture
def site():
    with tempfile.TemporaryFile() as file:
        files = {"index.html": b"home", "big.bin": b"x" * 100_000, "huge.bin": b"y" * 300_000}
        write(file, [Source(f"/app/{name}", data, mtime=10) for name, data in files.items()])
        file.flush()
        site = Site("r", Fd(os.dup(file.fileno())))
    yield site
    site.let_go()


def head(text: str) -> Head:
    parsed = parse(text.replace("\n", "\r\n").encode())
    assert isinstance(parsed, Head)
    return parsed


def test_a_large_body_stays_in_its_pack(site):
    plan = answer(head("GET /big.bin HTTP/1.1\nHost: h\n\n"), site, "/")
    assert plan.site is site and plan.count == 100_000 > SMALL
    first = plan.stamped(1000)
    assert first.endswith(b"date: Thu, 01 Jan 1970 00:16:40 GMT\r\n\r\n")
    assert plan.stamped(1000) is first
    assert plan.stamped(1001) == first.replace(b"00:16:40", b"00:16:41")
    assert plan.size < 2000
    small = answer(head("GET /index.html HTTP/1.1\nHost: h\n\n"), site, "/")
    assert small.site is None and small.stamped(1000).endswith(b"00:16:40 GMT\r\n\r\nhome")


def test_a_pack_is_closed_when_its_last_reader_is_done(site):
    sites = Sites(1)
    assert not sites.put(site)
    site.use()
    number = site.fileno()
    sites.keep_only(set())
    assert site.gone and os.fstat(number)
    site.done()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_what_is_remembered_is_bounded():
    hot = Hot()
    for number in range(5000):
        hot.put(b"%d" % number, Plan(b"head", bytes(100)))
    assert hot.get(b"0") is None and hot.get(b"4999") is not None
    for number in range(1000):
        hot.put(b"x%d" % number, Plan(b"head", bytes(64_000)))
    assert sum(1 for n in range(1000) if hot.get(b"x%d" % n)) < 550
    hot.clear()
    assert hot.get(b"x999") is None
