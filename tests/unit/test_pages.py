"""What a static site says about itself: _headers, _redirects, and its files in other codings."""

from __future__ import annotations

import gzip
import re

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.pack.collect import Source
from fildes.pages.headers import OURS, Headers
from fildes.pages.lines import MAX_FILE, PagesError, Pattern, canonical
from fildes.pages.redirects import MAX_RULES, Redirects, Target
from fildes.pages.variants import accepted, compressible, place
from fildes.publish.compress import variants


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("/a", "/a", {}),
        ("/a", "/a/", {}),
        ("/a/", "/a", {}),
        ("/a", "/ab", None),
        ("/", "/", {}),
        ("/*", "/", {"splat": ""}),
        ("/*", "/x/y", {"splat": "x/y"}),
        ("/blog/*", "/blog", {"splat": ""}),
        ("/blog/*", "/blogs", None),
        ("/blog/*", "/blog/2024/x", {"splat": "2024/x"}),
        ("/*.css", "/a/b.css", {"splat": "a/b"}),
        ("/:y/:m/feed", "/2024/05/feed", {"y": "2024", "m": "05"}),
        ("/:y/feed", "/2024/05/feed", None),
        ("/v.1", "/vx1", None),
        ("/ä", "/%C3%A4", {}),
        ("/%c3%a4/*", "/%C3%A4/b", {"splat": "b"}),
        ("/a b", "/a%20b", {}),
    ],
)
def test_patterns(pattern: str, path: str, values: dict[str, str] | None) -> None:
    assert Pattern(pattern).match(canonical(path)) == values


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_pattern_is_slow_or_breaks(pattern: str, path: str) -> None:
    try:
        made = Pattern("/" + pattern)
    except ValueError:
        return
    made.match(canonical("/" + path))


@given(st.binary(max_size=40))
def test_there_is_one_way_to_write_a_path(data: bytes) -> None:
    text = "".join(f"%{byte:02x}" for byte in data)
    once = canonical("/" + text)
    assert canonical(once) == once == canonical("/" + text.upper())
    assert re.fullmatch(r"[!-~]*", once)


RULES = b"""# a comment
/old            /new
/news/*         /blog/:splat           302
/:year/feed     /feeds/:year.xml       200
/gone           /gone.html             410
/about          https://example.org/us 307
/app/*          /app/index.html        200!
/q              /r?x=1                 301
/old            /never
/*              /lost.html             404
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/old", Target(301, "/new")),
        ("/old/", Target(301, "/new")),
        ("/news/a/b", Target(302, "/blog/a/b")),
        ("/2024/feed", Target(200, "/feeds/2024.xml")),
        ("/gone", Target(410, "/gone.html")),
        ("/about", Target(307, "https://example.org/us")),
        ("/q", Target(301, "/r?x=1")),
        ("/else", Target(404, "/lost.html")),
    ],
)
def test_redirects(path: str, found: Target) -> None:
    assert Redirects(RULES).find(path) == found


def test_only_those_that_insist_go_before_files() -> None:
    rules = Redirects(RULES)
    assert rules.forced("/app/x") == Target(200, "/app/index.html")
    assert rules.forced("/old") is None and rules.forced("/anything") is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/a", "1 words"),
        ("/a /b 301 Country=de", "4 words"),
        ("/a q=:q /b 301", "conditions on query"),
        ("a /b", "begins with '/'"),
        ("https://x.test/a /b", "the host is not a part of it"),
        ("/a /b 299", "expected one of 200, 301"),
        ("/a /b ２００", "expected one of"),
        ("/a //evil.test/b", "begins with one '/'"),
        ("/a javascript:alert(1)", "begins with one '/'"),
        ("/a https:///b", "and a host"),
        ("/* https://:splat/b", "and a host"),
        ("/a https://[::1/b", "and a host"),
        ("/a https://x.test/b 200", "another host"),
        ("/a /b/:c", "has no :c"),
        ("/a/*/* /b", "may stand once"),
        ("/:a/:a /b", "stands twice"),
        ("/a/../b /c", "no '.' or '..'"),
        ("/a /" + "b" * 3000, "a line may have"),
        ("/a /\udce4", "not UTF-8"),
    ],
)
def test_a_redirect_that_cannot_be_obeyed_is_named(line: str, said: str) -> None:
    with pytest.raises(PagesError) as raised:
        Redirects(b"# first\n" + line.encode("utf-8", "surrogateescape") + b"\n")
    assert str(raised.value).startswith("_redirects:2: ") and said in str(raised.value)


def test_there_is_a_most_of_everything() -> None:
    with pytest.raises(PagesError, match=r"at most"):
        Redirects(b"/a%d /b\n" * (MAX_RULES + 1))
    with pytest.raises(PagesError, match=r"at most"):
        Redirects(b"#" * (MAX_FILE + 1))
    with pytest.raises(PagesError, match=r"more than 200 blocks"):
        Headers(b"/a\n" * 201)
    with pytest.raises(PagesError, match=r"more than 100 fields"):
        Headers(b"/a\n" + b"  X-Y: z\n" * 101)


HEADERS = b"""/*
  X-Frame-Options: DENY
  Link: </a>; rel=preload
/assets/*
  Cache-Control: public, max-age=31536000, immutable
  ! X-Frame-Options
  Link: </b>; rel=preload
/download
  Content-Type: application/x-own
"""


def test_headers() -> None:
    rules = Headers(HEADERS)
    assert rules.of("/") == {"x-frame-options": "DENY", "link": "</a>; rel=preload"}
    assert rules.of("/assets/a.js") == {
        "cache-control": "public, max-age=31536000, immutable",
        "link": "</a>; rel=preload, </b>; rel=preload",
    }
    assert rules.of("/download")["content-type"] == "application/x-own"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  X-A: b", "_headers:1: a field before any path"),
        ("/a\n  X-A", "_headers:2: X-A: expected Name: value"),
        ("/a\n  X A: b", "_headers:2"),
        ("/a\nX-A: b", "_headers:2: X-A: b: fields are indented"),
        ("/a\n  X-A: b\x00c", "no header can carry"),
        ("/a\n  X-A: \u20ac", "no header can carry"),
        *((f"/a\n  {name}: 1", "the server's to say") for name in sorted(OURS)),
    ],
)
def test_a_header_that_cannot_be_obeyed_is_named(text: str, said: str) -> None:
    with pytest.raises(PagesError) as raised:
        Headers(text.encode())
    assert said in str(raised.value)


@given(st.binary(max_size=200))
def test_whatever_comes_is_obeyed_or_named(data: bytes) -> None:
    for reads in (Headers, Redirects):
        try:
            reads(data)
        except PagesError as error:
            assert str(error).startswith(("_headers:", "_redirects:"))


@pytest.mark.parametrize(
    ("values", "codings"),
    [
        ([], []),
        ([b"gzip, deflate, br, zstd"], ["br", "gzip"]),
        ([b"gzip"], ["gzip"]),
        ([b"x-gzip"], ["gzip"]),
        ([b"br;q=0.5, gzip;q=0.8"], ["gzip", "br"]),
        ([b"br;q=0, gzip"], ["gzip"]),
        ([b"*"], ["br", "gzip"]),
        ([b"*;q=0.1, br;q=0"], ["gzip"]),
        ([b"gzip", b"BR"], ["br", "gzip"]),
        ([b"identity"], []),
        ([b"gzip;q=nonsense, br;level=3"], []),
        ([b"gzip;q=0.000"], []),
    ],
)
def test_what_a_client_takes(values: list[bytes], codings: list[str]) -> None:
    assert accepted(values) == codings


@given(st.lists(st.binary(max_size=30), max_size=4))
def test_no_accept_encoding_harms(values: list[bytes]) -> None:
    accepted(values)


def test_what_gets_smaller_is_kept_smaller() -> None:
    page, noise = b"<p>the same again</p>" * 100, bytes(range(256)) * 2
    members = [
        Source("/app/index.html", page, mtime=7),
        Source("/app/tiny.html", b"<p>"),
        Source("/app/a.png", page),
        Source("/app/docs", None, 0o755),
        Source("/app/noise.txt", noise),
    ]
    made = {source.path: source for source in variants(members)}
    assert set(made) <= {place(c, p) for c in ("br", "gzip") for p in ("/app/index.html", "/app/noise.txt")}
    assert brotli.decompress(made["/br/index.html"].data) == page
    assert gzip.decompress(made["/gzip/index.html"].data) == page
    assert made["/br/index.html"].mtime == 7
    assert [s.data for s in variants(members)] == [s.data for s in variants(members)]


def test_types_that_are_compressed_in_themselves_are_left_alone() -> None:
    assert all(map(compressible, ["/a.html", "/a.js", "/a.json", "/a.svg", "/a.wasm", "/a.ttf", "/a.rss"]))
    assert not any(map(compressible, ["/a.png", "/a.woff2", "/a.zip", "/a", "/a.mp4", "/a.gz"]))


@pytest.mark.parametrize("pattern", ["/:a:b", "/:a-:b.html", "/x/*:a", "/:a*/y", "/" + ":a" * 600])
def test_a_pattern_that_could_be_tried_in_many_ways_is_refused(pattern: str) -> None:
    with pytest.raises(PagesError, match="not several"):
        Redirects(f"{pattern}/x /y".encode())


def test_what_a_client_wrote_is_not_multiplied() -> None:
    rules = Redirects(b"/x/* /" + b":splat" * 300 + b" 302\n")
    assert rules.find("/x/" + "a" * 20) == Target(302, "/" + "a" * 6000)
    assert rules.find("/x/" + "a" * 2000) is None


def test_few_rules_are_tried_one_after_another() -> None:
    with pytest.raises(PagesError, match="at most 100"):
        Redirects(b"".join(b"/%d/* /\n" % number for number in range(101)))
