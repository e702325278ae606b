"""A Flask program with blueprints, a session, languages, pictures and XML: as waitress serves it, unconfined."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fildes.testing import Node

from .conftest import Curl, install
from .programs import FORM, Ask, Heard, Twins, ask, multipart, taken, unconfined

HOST = "gallery.localhost"
# The time in a session's signature, and what follows from it; when a cookie ends.
SIGNED = r"session=[\w.-]+|Expires=[^;]+"
KEY = b"between you and me"
GERMAN = {"Accept-Language": "de-DE,de;q=0.9,en;q=0.5"}
PAGE = b'<p>a <a href="b?c=1">link</a> and <img src="/d.png"> <!-- ... --> &uuml;'
XML = b'<gallery><painting year="1961">Bl\xc3\xa5</painting></gallery>'


def picture(size: tuple[int, int] = (300, 200)) -> bytes:
    """A BMP of noise: three bytes a dot."""
    width, height = size
    dots = random.Random(2).randbytes(width * height * 3)
    head = b"BM" + (54 + len(dots)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    form = (40).to_bytes(4, "little") + width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return head + form + b"\x01\0\x18\0" + bytes(24) + dots


def uploads(path: str, field: str, *contents: tuple[str, bytes]) -> Ask:
    body, headers = multipart(*((field, name, "image/x-test", content) for name, content in contents))
    return Ask("POST", path, body, headers)


ASKS = [
    *(Ask("GET", path) for path in ("/", "/?count=2", "/formats", "/robots.txt", "/static/style.css", "/nowhere")),
    *(Ask("GET", path, headers=GERMAN) for path in ("/", "/?count=2", "/formats", "/nowhere", "/account/enter")),
    Ask("GET", "/", headers={"Accept-Language": "fr, ja"}),
    Ask("HEAD", "/"),
    Ask("GET", "/static/frame.png", headers={"Range": "bytes=10-99"}),
    Ask("GET", "/static/../__init__.py"),
    *(Ask("GET", f"/refuse/{status}", headers=GERMAN) for status in (400, 403, 404, 409, 410, 415, 429, 500, 503)),
    Ask("PUT", "/refuse/422", b"x" * 100_000),
    Ask("DELETE", "/refuse/422"),
    Ask("OPTIONS", "/refuse/422"),
    Ask("GET", "/refuse/-1"),
    Ask("GET", "/account"),
    Ask("GET", "/account/"),
    Ask("POST", "/account/enter", b"name=Ada&word=falsch", FORM | GERMAN),
    Ask("POST", "/account/enter", b"name=Ada", FORM),
    Ask("GET", "/lines?n=2000"),
    Ask("GET", "/lines?n=0"),
    Ask("POST", "/echo", bytes(range(256)) * 4000, {"Content-Type": "application/x-all"}),
    Ask("POST", "/echo", b"x" * 3_000_001),
    # Pictures, made and read.
    *(Ask("GET", f"/pictures/made.{kind}") for kind in ("png", "jpeg", "webp", "gif", "tiff", "bmp")),
    Ask("GET", "/pictures/made.jpeg?words=R%C3%B6d&size=800"),
    Ask("GET", "/pictures/made.svg"),
    Ask("GET", "/pictures/kept"),
    uploads("/pictures/thumbnail", "picture", ("größe.bmp", picture())),
    uploads("/pictures/thumbnail", "picture", ("large.bmp", picture(size=(900, 800)))),
    uploads("/pictures/read", "pictures", ("a.bmp", picture()), ("b.txt", b"no picture"), ("cut", picture()[:90_000])),
    uploads("/pictures/thumbnail", "other", ("a.bmp", picture())),
    # XML: files beside the program are opened by C.
    Ask("GET", "/feeds/atom.xml?n=50"),
    Ask("GET", "/feeds/page"),
    Ask("POST", "/feeds/check", XML),
    Ask("POST", "/feeds/check", XML.replace(b"1961", b"soon").replace(b"</gallery>", b"<x/></gallery>")),
    Ask("POST", "/feeds/check", XML[:-5]),
    Ask("POST", "/feeds/check", b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'),
    Ask("POST", "/feeds/links", PAGE),
]


@pytest.fixture(scope="module")
def gallery(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp("gallery")
    app = taken("gallery", folder)
    packages = install(folder / "packages", "-r", str(app / "requirements.txt"), "waitress")
    translations = str(app / "gallery" / "translations")
    compiling = [sys.executable, "-m", "babel.messages.frontend", "compile", "-d", translations]
    subprocess.run(compiling, env=os.environ | {"PYTHONPATH": str(packages)}, check=True, capture_output=True)
    set_key(town, KEY)
    town.fildes("publish", str(app), timeout=180)
    (folder / "key").write_bytes(KEY)
    command = ["-m", "waitress", "--listen", "127.0.0.1:PORT", "--call", "gallery:create_app"]
    with unconfined(app, packages, *command, environment={"SESSION_KEY_FILE": str(folder / "key")}) as address:
        yield Twins(town, HOST, address)
    town.fildes("rm", "gallery", check=False)


def test_every_answer_is_what_waitress_gives(gallery: Twins) -> None:
    heard = gallery.agree(ASKS, varying=[r'(?<=-)\d+"$'])  # in an ETag: where the file is
    said = {one.path: answer for one, answer in zip(ASKS, heard, strict=True)}
    assert [path for path, answer in said.items() if answer.status == 500] == ["/refuse/500", "/pictures/made.svg"]
    assert "Bienvenue" in heard[11].body.decode()
    assert said["/feeds/page"].body.decode().startswith("<ul>\n<li>1920: Rot")
    assert said["/pictures/made.webp"].body[8:12] == b"WEBP"


def test_who_signed_in_on_one_is_known_to_the_other(gallery: Twins) -> None:
    """The session is a cookie signed with the same secret: byte for byte, but for the second it was made in."""
    enter = Ask("POST", "/account/enter", b"name=%C3%84da&word=kunst", FORM)
    cookies = []
    for answer in gallery.both(enter):
        assert answer.status == 303 and ("location", "/account/") in answer.headers
        cookies.append(cookie(answer))
    for session in cookies:
        heard = gallery.agree([Ask("GET", "/account/", headers={"Cookie": session})], varying=[SIGNED])
        assert "Hello, Äda" in heard[0].body.decode()
        [chosen] = gallery.agree([Ask("GET", "/account/language/de", headers={"Cookie": session})], varying=[SIGNED])
        german = cookie(ask(gallery.confined, HOST, Ask("GET", "/account/language/de", headers={"Cookie": session})))
        [home] = gallery.agree([Ask("GET", "/account/", headers={"Cookie": german})], varying=[SIGNED])
        assert chosen.status == 302 and "Grüß Gott, Äda" in home.body.decode()
    # Not the last letter: some of its bits are no part of the signature.
    forged = cookies[0][:-2] + ("A" if cookies[0][-2] != "A" else "B") + cookies[0][-1]
    [refused] = gallery.agree([Ask("GET", "/account/", headers={"Cookie": forged})])
    assert refused.status == 302
    gallery.agree([Ask("POST", "/account/leave", b"", {"Cookie": cookies[0]})])


def test_another_secret_is_in_force_after_a_stop(gallery: Twins) -> None:
    """It was read while the program was loaded: it is loaded anew."""
    enter = Ask("POST", "/account/enter", b"name=Ada&word=kunst", FORM)
    session = {"Cookie": cookie(ask(gallery.confined, HOST, enter))}
    home = Ask("GET", "/account/", headers=session)
    assert ask(gallery.confined, HOST, home).status == 200
    try:
        set_key(gallery.node, b"somebody else's")
        gallery.node.fildes("stop", "gallery")
        assert ask(gallery.confined, HOST, home).status == 302
    finally:
        set_key(gallery.node, KEY)
        gallery.node.fildes("stop", "gallery")
    assert ask(gallery.confined, HOST, home).status == 200


def test_chunks_and_waits(gallery: Twins, curl: Curl) -> None:
    words = ("-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", "-H", "Content-Type: text/x-a")
    echoed = curl(gallery.node, HOST, "/echo", *words, "--data-binary", "a=b&c")
    assert (echoed.status, echoed.body, echoed.headers["content-type"]) == (200, b"a=b&c", "text/x-a")


def set_key(node: Node, value: bytes) -> None:
    words = [sys.executable, "-m", "fildes.cli", "secret", "set", "gallery", "session-key"]
    subprocess.run(words, env=os.environ | {"FILDES_STATE": str(node.state)}, input=value, check=True, timeout=20)


def cookie(heard: Heard) -> str:
    [line] = [value for name, value in heard.headers if name == "set-cookie"]
    return line.partition(";")[0]
