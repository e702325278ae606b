"""httpbin, as it is on the index: every kind of answer that HTTP has, as gunicorn gives it."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections.abc import Iterator

import pytest

from fildes.testing import Node

from .conftest import Curl, install
from .programs import FORM, JSON, Ask, Twins, ask, multipart, taken, unconfined

HOST = "httpbin.localhost"
NOISE = random.Random(1).randbytes(700_000)  # more than a form keeps in memory: a temporary file
BODY, KIND = multipart(
    ("picture", "ü.png", "image/png", b"\x89PNG\r\n"), ("noise", "noise.bin", "application/x-noise", NOISE), note="zwei"
)
GZIP = {"Accept-Encoding": "gzip, deflate, br"}
IF_NONE = {"If-None-Match": '"abc", "def"'}
COOKIES = {"Cookie": "a=1; b=zwei; c=%C3%BC"}
BASIC = {"Authorization": "Basic dXNlcjpwYXNz"}

PAGES = ["/", "/html", "/robots.txt", "/deny", "/xml", "/json", "/forms/post", "/encoding/utf8", "/legacy", "/nothing"]
IMAGES = ["/image/png", "/image/jpeg", "/image/webp", "/image/svg", "/static/favicon.ico", "/static/nothing"]
ASKS = [
    *(Ask("GET", path) for path in PAGES + IMAGES),
    *(Ask("HEAD", path) for path in ("/", "/image/png", "/stream/3", "/status/418")),
    *(
        Ask("GET", "/image", headers={"Accept": kind})
        for kind in ("image/webp", "image/*", "text/html", "image/svg+xml")
    ),
    # What a request was, told back.
    *(Ask("GET", path) for path in ("/ip", "/user-agent", "/headers", "/get?a=1&b=2&a=3&%C3%BC=%26", "/get?x=%ff")),
    *(Ask(method, f"/{method.lower()}", b"x=1&y=%C3%BC&x=2", FORM) for method in ("POST", "PUT", "PATCH", "DELETE")),
    *(Ask(method, "/anything/a%2Fb/%F0%9F%96%BC/../c;d?q=1", b'{"a": [1]}', JSON) for method in ("POST", "TRACE")),
    Ask("POST", "/post", b'{"broken": ', JSON),
    Ask("POST", "/post", bytes(range(256)), {"Content-Type": "application/octet-stream"}),
    Ask("POST", "/post", BODY, KIND),
    Ask("POST", "/post", BODY[:400], KIND),
    Ask("POST", "/post", b"", FORM),
    Ask("OPTIONS", "/get", headers={"Origin": "https://a.example", "Access-Control-Request-Headers": "X-A"}),
    Ask("GET", "/get", headers={"Origin": "https://a.example"}),
    Ask("POST", "/get"),
    # Encodings of bodies.
    *(Ask("GET", path, headers=GZIP) for path in ("/gzip", "/deflate", "/brotli")),
    Ask("GET", "/base64/SGVsbG8g8J-MjQ=="),
    Ask("GET", "/base64/!!!"),
    # Bytes, parts, streams, time.
    Ask("GET", "/bytes/100000?seed=7"),
    Ask("GET", "/stream-bytes/100000?seed=7&chunk_size=777"),
    Ask("GET", "/stream/20?x=1"),
    Ask("GET", "/stream/0"),
    Ask("GET", "/drip?duration=0.2&numbytes=5&delay=0&code=202"),
    Ask("GET", "/drip?numbytes=0"),
    Ask("GET", "/delay/0.2?x=1"),
    Ask("GET", "/range/20000"),
    Ask("GET", "/range/20000?chunk_size=300", headers={"Range": "bytes=100-5000"}),
    Ask("GET", "/range/26", headers={"Range": "bytes=-5"}),
    Ask("GET", "/range/26", headers={"Range": "bytes=10-50"}),
    Ask("GET", "/range/26", headers={"If-None-Match": "range26"}),
    Ask("GET", "/links/10/3"),
    Ask("GET", "/links/10"),
    # Where to go next.
    *(Ask("GET", f"/{kind}/3") for kind in ("redirect", "relative-redirect", "absolute-redirect")),
    *(Ask(method, "/redirect-to?url=http%3A%2F%2Fexample.org%2F&status_code=307") for method in ("GET", "POST")),
    *(Ask("GET", f"/status/{code}") for code in (200, 204, 205, 301, 302, 304, 401, 402, 404, 406, 410, 418, 500, 503)),
    *(Ask("POST", f"/status/{code}") for code in (201, 400, "tea", "200:1", "404:0,201:1")),
    # Caches, cookies, who is it?
    Ask("GET", "/cache", headers={"If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}),
    Ask("GET", "/cache"),
    Ask("GET", "/cache/60"),
    *(Ask("GET", f"/etag/{tag}", headers=IF_NONE) for tag in ("abc", "xyz")),
    *(Ask("GET", "/etag/xyz", headers={"If-Match": match}) for match in ("*", '"abc"')),
    Ask("GET", "/response-headers?X-A=1&X-A=2&Server=me&Content-Type=text%2Fplain"),
    Ask("POST", "/response-headers?freeform=%C3%BC"),
    Ask("GET", "/cookies", headers=COOKIES),
    Ask("GET", "/cookies/set/k/v"),
    Ask("GET", "/cookies/set?k1=v%3B1&k2=v2"),
    Ask("GET", "/cookies/delete?a=&b="),
    Ask("GET", "/basic-auth/user/pass"),
    *(Ask("GET", f"/{kind}/user/pass", headers=BASIC) for kind in ("basic-auth", "hidden-basic-auth")),
    *(Ask("GET", f"/{kind}/user/other", headers=BASIC) for kind in ("basic-auth", "hidden-basic-auth")),
    Ask("GET", "/bearer", headers={"Authorization": "Bearer abc"}),
    Ask("GET", "/bearer"),
    Ask("GET", "/digest-auth/auth/user/pass/SHA-256"),
    Ask("GET", "/uuid"),
]
# Chance, and the moment.
VARYING = [
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    r'(nonce|opaque)="[0-9a-f]+"',
    r"\b[0-9a-f]{32}\b",
    r"\b\d{10}\.\d+-\d+-\d+",  # an ETag of a file: when it was installed, and where
    r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT",
]


@pytest.fixture(scope="module")
def httpbin(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp("httpbin")
    app = taken("httpbin", folder)
    town.fildes("publish", str(app), timeout=180)
    packages = install(folder / "packages", "-r", str(app / "requirements.txt"), "gunicorn")
    command = ["-m", "gunicorn", "--threads", "4", "--no-control-socket", "--bind", "fd://FD", "httpbin:app"]
    with unconfined(app, packages, *command) as address:
        yield Twins(town, HOST, address)
    town.fildes("rm", "httpbin", check=False)


def test_every_answer_is_what_gunicorn_gives(httpbin: Twins) -> None:
    heard = httpbin.agree(ASKS, varying=VARYING)
    failed = [one.path for one, answer in zip(ASKS, heard, strict=True) if answer.status == 500]
    assert failed == ["/status/500"]
    assert {200, 201, 202, 204, 206, 302, 304, 400, 401, 404, 412, 416, 418} <= {answer.status for answer in heard}


def test_a_client_that_follows_signs_in_and_unpacks(httpbin: Twins, curl: Curl) -> None:
    node = httpbin.node
    told = json.loads(curl(node, HOST, "/redirect/5", "-L", "--max-redirs", "5").body)
    assert told["url"].endswith("/get")
    for algorithm in ("MD5", "SHA-256"):
        path = f"/digest-auth/auth/ada/secret/{algorithm}"
        assert json.loads(curl(node, HOST, path, "--digest", "-u", "ada:secret").body)["authenticated"] is True
        assert curl(node, HOST, path, "--digest", "-u", "ada:wrong").status == 401
    for kind in ("gzip", "deflate", "brotli"):
        told = json.loads(curl(node, HOST, f"/{kind}", "--compressed").body)
        assert told["deflated" if kind == "deflate" else "gzipped" if kind == "gzip" else kind] is True
    jar = curl(node, HOST, "/cookies/set?k1=v1&k2=v2", "-L", "-b", "x=y", "-c", "/dev/null")
    assert json.loads(jar.body)["cookies"] == {"k1": "v1", "k2": "v2", "x": "y"}


def test_chunked_requests_are_refused_by_the_program(httpbin: Twins, curl: Curl) -> None:
    """It takes them from gunicorn only, which it looks for by name."""
    chunked = curl(httpbin.node, HOST, "/post", "-H", "Transfer-Encoding: chunked", "-d", "a=b")
    assert chunked.status == 501 and b"Chunked requests are not supported for server" in chunked.body


def test_what_drips_arrives_drop_by_drop(httpbin: Twins) -> None:
    with contextlib.closing(socket.create_connection(httpbin.confined, 10)) as client:
        client.sendall(f"GET /drip?duration=3&numbytes=3&delay=0 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        began = time.monotonic()
        got = b""
        while b"\r\n\r\n*" not in got:
            got += client.recv(1000)
        assert got[-5:] == b"\r\n\r\n*" and time.monotonic() - began < 3, "the first drop, and not yet the others"


def test_chance_is_chance(httpbin: Twins) -> None:
    assert len({ask(httpbin.confined, HOST, Ask("GET", "/uuid")).body for _ in range(20)}) == 20
