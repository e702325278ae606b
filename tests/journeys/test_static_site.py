"""A site with redirects, headers and compression, from its folder to curl; and lines that can't be obeyed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import brotli
import pytest

from fildes.testing import Node

HOST = "garden.localhost"
PAGE = "<!doctype html><title>garden</title>" + "<p>one flower after another</p>" * 200


@pytest.fixture(scope="module")
def garden(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("garden")
    (folder / "index.html").write_text(PAGE)
    (folder / "roses.html").write_text("roses")
    (folder / "404.html").write_text("nothing grows here")
    (folder / "_redirects").write_text("/tulips /roses 302\n/old/* /:splat\n/app/* /index.html 200\n")
    (folder / "_headers").write_text("/*\n  X-Frame-Options: DENY\n/roses\n  Cache-Control: max-age=60\n")
    town.fildes("publish", str(folder), "--name", "garden")
    return folder


def test_what_a_browser_gets(town: Node, garden: Path) -> None:
    page = town.request("/", host=HOST, headers={"Accept-Encoding": "gzip, deflate, br"})
    assert page.headers["content-encoding"] == "br" and brotli.decompress(page.body).decode() == PAGE
    assert page.headers["vary"] == "accept-encoding" and page.headers["x-frame-options"] == "DENY"
    assert town.request("/", host=HOST).body.decode() == PAGE
    roses = town.request("/roses", host=HOST)
    assert (roses.body, roses.headers["cache-control"]) == (b"roses", "max-age=60")
    assert town.request("/app/any/where", host=HOST).body.decode() == PAGE
    missing = town.request("/_redirects", host=HOST)
    assert (missing.status, missing.body) == (404, b"nothing grows here")


def test_curl_follows_and_unpacks(town: Node, garden: Path) -> None:
    address, port = town.addresses[0]
    resolve = f"{HOST}:{port}:{address}"
    command = ["curl", "-sL", "-m", "5", "--compressed", "--resolve", resolve]
    for path, expected in (("/tulips", "roses"), ("/old/roses", "roses"), ("/app/x", PAGE)):
        done = subprocess.run([*command, f"http://{HOST}:{port}{path}"], capture_output=True, timeout=10, check=True)
        assert done.stdout.decode() == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("_redirects", "/a /b\n/c //evil.example/\n", "_redirects:2: //evil.example/: expected a path"),
        ("_redirects", "/a /b 301 Country=de\n", "_redirects:1: 4 words"),
        ("_headers", "/*\n  Set-Cookie: a=b\n", "_headers:2: set-cookie: this field is the server's to say"),
    ],
)
def test_a_line_that_cannot_be_obeyed_leaves_what_was_served(
    town: Node, garden: Path, name: str, text: str, said: str
) -> None:
    before = (garden / name).read_text()
    (garden / name).write_text(text)
    try:
        refused = town.fildes("publish", str(garden), "--name", "garden", check=False)
    finally:
        (garden / name).write_text(before)
    assert refused.returncode == 1 and said in refused.stderr
    assert town.request("/tulips", host=HOST).status == 302
