"""A site with everything that hosts of static sites offer, to real clients."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import resource
import subprocess

import brotli
import pytest

from fildes.pack.collect import Source
from fildes.publish.compress import variants
from fildes.wire import catalogue

PAGE = b"<!doctype html><p>a page that gets smaller</p>" * 40
SCRIPT = b"export const answer = 42;\n" * 8000  # beyond what is kept in memory when it is plain
SITE: dict[str, bytes | None] = {
    "index.html": PAGE,
    "about.html": b"about",
    "both.html": b"the page",
    "both/index.html": b"the folder",
    "bare.html": b"the bare page",
    "bare/x.txt": b"x",
    "lost.html": b"<h1>lost</h1>",
    "gone.html": b"<h1>gone</h1>",
    "new/index.html": b"new",
    "app/index.html": b"the app",
    "app/real.txt": b"hidden by the app",
    "feeds/2024.xml": b"<feed/>",
    "assets/app.js": SCRIPT,
    "picture.png": PAGE,
    "_redirects": b"/old /new/ 302\n/news/* /blog/:splat\n/:year/feed /feeds/:year.xml 200\n/former /gone.html 410\n"
    b"/away https://example.org/x 308\n/app/* /app/index.html 200!\n/broken /nothing 200\n/* /lost.html 404\n",
    "_headers": b"/*\n  X-Content-Type-Options: nosniff\n/assets/*\n"
    b"  Cache-Control: public, max-age=31536000, immutable\n"
    b"/picture.png\n  Content-Type: image/x-own\n",
}


@pytest.fixture
def client(static):
    static.site("5555", SITE, variants=variants([Source(f"/app/{name}", data) for name, data in SITE.items()]))
    static.site("6666", SITE)
    connection = http.client.HTTPConnection(*static.address, timeout=10)
    yield connection
    connection.close()


def ask(client, path, method="GET", host="s.test", **headers):
    client.request(method, path, headers={"Host": host} | {k.replace("_", "-"): v for k, v in headers.items()})
    response = client.getresponse()
    return response, response.read()


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/old", 302, "/new/"),
        ("/old?a=b", 302, "/new/?a=b"),
        ("/news/a/b", 301, "/blog/a/b"),
        ("/news/%C3%A4", 301, "/blog/%C3%A4"),
        ("/news/a%0d%0ax", 301, "/blog/a%0D%0Ax"),
        ("/2024/feed", 200, b"<feed/>"),
        ("/former", 410, b"<h1>gone</h1>"),
        ("/away", 308, "https://example.org/x"),
        ("/app/deep/link", 200, b"the app"),
        ("/app/real.txt", 200, b"the app"),
        ("/broken", 404, b"There is nothing at this address.\n"),
        ("/nothing", 404, b"<h1>lost</h1>"),
        ("/_redirects", 404, b"<h1>lost</h1>"),
        ("/_headers", 404, b"<h1>lost</h1>"),
        ("/br/index.html", 404, b"<h1>lost</h1>"),
        ("/new", 301, "/new/"),
        ("/about", 200, b"about"),
        ("/both", 301, "/both/"),
        ("/bare", 200, b"the bare page"),
        ("/index.html", 200, PAGE),
    ],
)
def test_rules(client, path, status, detail):
    for _ in range(2):
        response, body = ask(client, path)
        assert response.status == status
        assert (response.headers["location"] if isinstance(detail, str) else body) == detail


def test_rules_below_a_prefix(client):
    assert ask(client, "/docs/old", host="t.test")[0].headers["location"] == "/docs/new/"
    assert ask(client, "/docs/away", host="t.test")[0].headers["location"] == "https://example.org/x"
    assert ask(client, "/docs/2024/feed", host="t.test")[1] == b"<feed/>"


@pytest.mark.parametrize("path", ["/", "/assets/app.js"])
def test_a_client_gets_the_coding_that_it_takes(client, path):
    plain, whole = ask(client, path)
    for _ in range(3):
        br, body = ask(client, path, Accept_Encoding="gzip, deflate, br, zstd")
        assert br.headers["content-encoding"] == "br" and brotli.decompress(body) == whole
        zipped, body = ask(client, path, Accept_Encoding="gzip")
        assert zipped.headers["content-encoding"] == "gzip" and gzip.decompress(body) == whole
    for response in (plain, br, zipped):
        assert response.headers["vary"] == "accept-encoding"
        assert response.headers["content-type"] == plain.headers["content-type"]
    assert plain.headers["content-encoding"] is None
    etags = {response.headers["etag"] for response in (plain, br, zipped)}
    assert len(etags) == 3
    again, body = ask(client, path, Accept_Encoding="br", If_None_Match=br.headers["etag"])
    assert again.status == 304 and again.headers["vary"] == "accept-encoding" and body == b""
    assert ask(client, path, Accept_Encoding="gzip", If_None_Match=br.headers["etag"])[0].status == 200
    head, _ = ask(client, path, "HEAD", Accept_Encoding="br")
    assert head.headers["content-length"] == br.headers["content-length"]


def test_a_part_is_one_of_the_file_as_it_is(client):
    response, body = ask(client, "/assets/app.js", Accept_Encoding="br", Range="bytes=0-6")
    assert response.status == 206 and body == SCRIPT[:7] and response.headers["content-encoding"] is None


def test_the_headers_that_a_site_asks_for(client):
    page, _ = ask(client, "/")
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["cache-control"] is None
    script, _ = ask(client, "/assets/app.js", Accept_Encoding="br")
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    again, _ = ask(client, "/assets/app.js", If_None_Match=ask(client, "/assets/app.js")[0].headers["etag"])
    assert again.status == 304 and again.headers["cache-control"] == "public, max-age=31536000, immutable"
    picture, _ = ask(client, "/picture.png", Accept_Encoding="br")
    assert picture.headers["content-type"] == "image/x-own" and picture.headers["content-encoding"] is None
    assert ask(client, "/nothing")[0].headers["x-content-type-options"] == "nosniff"


def test_curl_unpacks_what_it_asked_for(client, static):
    url = f"http://127.0.0.1:{static.address[1]}/assets/app.js"
    command = ["curl", "-s", "-m", "5", "--compressed", "-H", "Host: s.test", url]
    assert subprocess.run(command, capture_output=True, timeout=10, check=True).stdout == SCRIPT


def test_thousands_of_sites_in_one_process(static):
    """All answer, in turn and again; what is open at a time is bounded."""
    sites = 3000
    pack = static.packs["5555"]
    static.packs.update({f"{number:012x}": pack for number in range(sites)})
    routes = [catalogue.Route(f"n{n}.test", "/", f"n{n}", f"{n:012x}", "anna", "static") for n in range(sites)]
    for number in range(0, sites, 500):
        static.delta(routes[number : number + 500])
    with contextlib.closing(http.client.HTTPConnection(*static.address, timeout=10)) as client:
        for number in (*range(sites), *range(0, sites, 100)):
            response, body = ask(client, "/", host=f"n{number}.test")
            assert (response.status, body) == (200, b"<h1>home</h1>")
    hard = resource.prlimit(static.pid, resource.RLIMIT_NOFILE)[1]
    # Two of each: Python's mmap keeps one of its own.
    assert static.fd_count() < min(2 * sites, hard // 8 + 100)
