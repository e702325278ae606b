"""Debian's python3-doc, published as it is: a thousand files that nobody here wrote, byte for byte."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

from fildes.testing import Node

from .conftest import Curl, told

DOC = Path("/usr/share/doc/python3-doc/html")
HOST = "pydoc.localhost"
PAGE = "/library/asyncio-task.html"


class Pages(NamedTuple):
    node: Node
    folder: Path


def _installed() -> bool:
    if (DOC / "index.html").exists():
        return True
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = "apt-get install -y --no-install-recommends python3-doc"
    # The lists of packages may be old, or none.
    command = ["sh", "-c", f"{install} || {{ apt-get update && {install}; }}"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    return (DOC / "index.html").exists()


@pytest.fixture(scope="module")
def pages(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    if not _installed():
        why = "Debian's python3-doc is not here and could not be installed: apt-get install python3-doc"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("doc") / "pydoc"
    # It links to files of other packages (jquery): those are published with it.
    shutil.copytree(DOC, folder, symlinks=False, ignore_dangling_symlinks=True)
    refused = town.fildes("publish", str(folder), "--name", "pydoc", timeout=120, check=False)
    assert refused.returncode and "a static service may have 50,000,000" in refused.stderr
    town.fildes("policy", "static_bytes=200000000")
    town.fildes("publish", str(folder), "--name", "pydoc", timeout=120)
    yield Pages(town, folder)
    shutil.rmtree(folder)


def test_every_file_is_served_byte_for_byte(pages: Pages) -> None:
    files = sorted(path for path in pages.folder.rglob("*") if path.is_file())
    assert len(files) > 500
    connection = http.client.HTTPConnection(*pages.node.addresses[0], timeout=20)
    with contextlib.closing(connection):
        connection.connect()
        socket = connection.sock
        for path in files:
            connection.request("GET", "/" + quote(path.relative_to(pages.folder).as_posix()), headers={"Host": HOST})
            answer = connection.getresponse()
            same = answer.read() == path.read_bytes()
            assert (answer.status, same) == (200, True), path
            assert connection.sock is socket, "one connection for all of them"


def test_the_types_that_browsers_need(pages: Pages, curl: Curl) -> None:
    kinds = {"/": "text/html", "/_static/pygments.css": "text/css", "/searchindex.js": "text/javascript"}
    for path, kind in kinds.items():
        assert curl(pages.node, HOST, path).headers["content-type"].startswith(kind), path


def test_conditions(pages: Pages, curl: Curl) -> None:
    first = curl(pages.node, HOST, PAGE)
    tag, changed = first.headers["etag"], first.headers["last-modified"]
    fresh = curl(pages.node, HOST, PAGE, "-H", f"If-None-Match: {tag}")
    assert (fresh.status, fresh.body) == (304, b"") and fresh.headers["etag"] == tag
    assert curl(pages.node, HOST, PAGE, "-H", f'If-None-Match: "other", W/{tag}').status == 304
    assert curl(pages.node, HOST, PAGE, "-H", 'If-None-Match: "other"').body == first.body
    assert curl(pages.node, HOST, PAGE, "-H", f"If-Modified-Since: {changed}").status == 304
    assert curl(pages.node, HOST, PAGE, "-H", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT").status == 200
    assert curl(pages.node, HOST, PAGE, "-H", 'If-Match: "other"').status == 412


def test_ranges(pages: Pages, curl: Curl) -> None:
    whole = (pages.folder / PAGE[1:]).read_bytes()
    size = len(whole)
    for asked, first, last in (("0-99", 0, 99), ("100-", 100, size - 1), ("-7", size - 7, size - 1)):
        part = curl(pages.node, HOST, PAGE, "-H", f"Range: bytes={asked}")
        assert (part.status, part.body) == (206, whole[first : last + 1]), asked
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
    beyond = curl(pages.node, HOST, PAGE, "-H", f"Range: bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    tag = curl(pages.node, HOST, PAGE, "-I").headers["etag"]
    assert curl(pages.node, HOST, PAGE, "-H", "Range: bytes=0-0", "-H", f"If-Range: {tag}").status == 206
    assert curl(pages.node, HOST, PAGE, "-H", "Range: bytes=0-0", "-H", 'If-Range: "other"').body == whole


def test_head_folders_and_what_is_not_there(pages: Pages, curl: Curl) -> None:
    get, head = curl(pages.node, HOST, PAGE), curl(pages.node, HOST, PAGE, "-I")
    assert (head.status == 200 and head.body == b"") or head.body.startswith(b"HTTP/1.1 200")  # -I prints the head
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}

    moved = curl(pages.node, HOST, "/library?a=b")
    assert moved.status in (301, 308) and moved.headers["location"].endswith("/library/?a=b")
    followed = curl(pages.node, HOST, "/library", "-L")
    assert followed.body == (pages.folder / "library/index.html").read_bytes()

    for path in ("/nothing.html", "/library/../../../etc/passwd", "/..%2f..%2fetc/passwd", f"{PAGE}/", "/index.html/x"):
        assert curl(pages.node, HOST, path).status in (400, 404), path
    refused = curl(pages.node, HOST, PAGE, "-d", "a=b")
    assert refused.status == 405 and "GET" in refused.headers["allow"]


def test_it_is_one_file_in_one_process(pages: Pages) -> None:
    [service] = told(pages.node, "ps", "pydoc")["services"]
    assert (service["runtime"], service["instances"]) == ("static", [])
    if os.geteuid() == 0:  # daemons are not dumpable: nobody else may look
        daemon = pages.node.daemons()["static"]
        names = [os.readlink(f"/proc/{daemon}/fd/{fd}") for fd in os.listdir(f"/proc/{daemon}/fd")]
        assert not [name for name in names if name.endswith((".html", ".css", ".js"))]
    again = told(pages.node, "publish", str(pages.folder), "--name", "pydoc")
    assert again["unchanged"]
