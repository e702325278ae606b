from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.runtime import response
from fildes.runtime.places import Places
from fildes.runtime.response import prepare


def test_the_same_head_is_encoded_once() -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"3")]
    one = prepare(200, headers)
    assert one is prepare(200, list(headers))
    assert one.text == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n"
    assert (one.length, one.close, one.bodyless, one.dated) == (3, False, False, False)
    assert prepare(404, headers).text.startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_any_iterable_will_do() -> None:
    expected = b"HTTP/1.1 200 OK\r\na: b\r\n"
    assert prepare(200, [[b"a", b"b"]]).text == expected
    assert prepare(200, ((n, v) for n, v in [(b"a", b"b")])).text == expected
    assert prepare(200, ()).text == b"HTTP/1.1 200 OK\r\n"


def test_cookies_are_not_remembered() -> None:
    prepare(200, [(b"Set-Cookie", b"secret=1"), (b"x", b"y")])
    assert not [key for key in [*response._heads, *response._pairs] if "secret" in repr(key)]


def test_the_tables_stay_small() -> None:
    for n in range(2000):
        prepare(200, [(b"etag", b"%d" % n)])
    assert len(response._heads) <= 256
    assert len(response._pairs) <= 513


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a\r\nb", b"c")],
        [(b"a", b"c\r\nd: e")],
        [(b"a", b"c\nd")],
        [(b"a", b"\0")],
        [(b"", b"c")],
        [(b"a b", b"c")],
        [(b"a:", b"c")],
        [("a", "b")],
        [(b"a", "b")],
        [(b"a", None)],
        [(b"a",)],
        [b"ab"],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1"), (b"Content-Length", b"1")],
    ],
)
def test_what_can_not_be_sent(headers: list[object]) -> None:
    for _ in range(2):
        with pytest.raises((ValueError, TypeError)):
            prepare(200, headers)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6))))
def test_a_head_is_never_split(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        text = prepare(200, headers).text
    except ValueError:
        return
    assert text.count(b"\r\n") == text.count(b"\n") == text.count(b"\r") <= 1 + len(headers)
    assert b"\r\n\r\n" not in text


@pytest.mark.parametrize(
    ("host", "path", "root"),
    [
        ("a.example", "/", None),
        ("a.example", "/shop", "/shop"),
        ("a.example", "/shop/x", "/shop"),
        ("a.example", "/shopping", None),
        ("a.example", "/shop/admin/x", "/shop/admin"),
        ("b.example", "/anything", ""),
        ("c.example", "/", None),
    ],
)
def test_places(host: str, path: str, root: str | None) -> None:
    assert Places(["a.example/shop", "a.example/shop/admin/", "B.example"]).root(host, path) == root
    assert Places([]).root(host, path) == ""
