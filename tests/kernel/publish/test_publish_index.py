"""An index that is down, slow, wrong or a liar: what is published stays, and the sentence says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fildes.testing.packages import Index

Refusing = Callable[..., str]
MANIFEST = 'name = "shop"\nruntime = "asgi"\nentry = "main:app"\nhosts = ["shop.localhost"]\n'
PROGRAM = {"fildes.toml": MANIFEST, "main.py": "app = None\n"}


def needing(*lines: str) -> dict[str, str]:
    return PROGRAM | {"requirements.txt": "".join(f"{line}\n" for line in lines)}


@pytest.fixture(autouse=True)
def _stock(shop: Index) -> None:
    if not list(shop.folder.glob("*.whl")):
        for number in range(9):  # each test takes one that no cache knows
            shop.add(f"ware{number}", "1.0", {f"ware{number}.py": f"N = {number}\n"})
        shop.add("greet", "1.0", {"greet.py": "def hello():\n    return 'hello'\n"}, requires=["dep>=1"])
        shop.add("dep", "1.0")


def test_from_our_own_index(shopper: Any, shop: Index) -> None:
    shopper.publish(needing("greet"))
    files = shopper.pack()
    assert files["/deps/greet.py"] == b"def hello():\n    return 'hello'\n" and "/deps/dep.py" in files
    lock = shopper.bundle()["requirements.lock"].decode()
    assert lock.startswith("# Made by fildes for Python 3.") and "greet==1.0 \\\n    --hash=sha256:" in lock
    assert any(path.startswith("/files/greet") for path in shop.asked())


FAULTS = {
    "404": ("", "ware0 is not in this node's package index; look at how it is written", "ware0"),
    "500": ("", "answers 500", "ware1"),
    "silent": ("", "does not answer in time", "ware2"),
    "cut": ("simple", "breaks off in the middle", "ware3"),
    "altered": ("files", "another file than the one that was locked, so it is not installed", "ware4"),
    "lie": ("", "another file than the one that was locked, so it is not installed", "ware5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_index_in_trouble(shopper: Any, shop: Index, refused: Refusing, fault: str) -> None:
    where, words, ware = FAULTS[fault]
    shopper.publish(PROGRAM)
    before = len(shopper.messages)
    shop.misbehave(fault, where)
    text = refused(shopper, needing(ware))
    assert text.startswith(("requirements.txt: ", "requirements.lock: ")) and words in text
    assert len(shopper.messages) == before, "the catalogue heard of nothing"
    shop.misbehave("")
    shopper.publish(needing(ware))  # nothing of the failure stayed: no lock with a hash that was a lie
    assert f"/deps/{ware}.py" in shopper.pack()


def test_a_download_that_is_cut_off(shopper: Any, shop: Index, refused: Refusing) -> None:
    shop.misbehave("cut", "files")
    assert "breaks off in the middle" in refused(shopper, needing("ware6"))


def test_a_slow_index_is_waited_for(shopper: Any, shop: Index) -> None:
    shop.misbehave("slow", "simple")  # it takes longer than the time-out, and is never silent for as long
    shopper.publish(needing("ware7"))
    assert "/deps/ware7.py" in shopper.pack()


def test_an_index_that_is_down(shopper: Any, shop: Index, refused: Refusing) -> None:
    shop.stop()
    try:
        text = refused(shopper, needing("ware8"))
        assert "can't be reached from this node; nothing was changed, and what is published goes on" in text
        assert "127.0.0.1" in text
    finally:
        shop.start()
    shopper.publish(needing("ware8"))


def test_only_the_configured_index_is_reached(shopper: Any, shop: Index, refused: Refusing) -> None:
    with Index() as other:
        other.add("stray", "1.0")
        (page,) = [file.name for file in other.folder.glob("*.whl")]
        digest = other.add("stray", "1.0")
        (shop.folder / "stray.html").write_text(f'<a href="{other.url[:-7]}/files/{page}#sha256={digest}">{page}</a>')
        text = refused(shopper, needing("stray"))
        assert "which this node does not reach" in text and "fildes up --index-host HOST" in text
        assert other.asked() == []


def test_a_lock_holds_the_versions(shopper: Any, shop: Index) -> None:
    shop.add("pinned", "1.0", {"pinned.py": "V = 1\n"})
    shopper.publish(needing("pinned"))
    shop.add("pinned", "2.0", {"pinned.py": "V = 2\n"})
    shopper.publish(needing("pinned") | {"more.txt": ""})
    assert shopper.pack()["/deps/pinned.py"] == b"V = 1\n", "the lock of the first publish"
    for lock in (shopper.folder / "publish/locks").iterdir():
        lock.unlink()
    shopper.publish(needing("pinned") | {"more.txt": "2"})
    assert shopper.pack()["/deps/pinned.py"] == b"V = 1\n", "kept with the release"
    shopper.publish(needing("pinned", "greet"))
    assert shopper.pack()["/deps/pinned.py"] == b"V = 1\n", "one more package is no reason to upgrade the others"
    shopper.publish(needing("pinned", "greet"), upgrade=True)
    assert shopper.pack()["/deps/pinned.py"] == b"V = 2\n"


def test_a_wheel_of_another_python(shopper: Any, shop: Index, refused: Refusing) -> None:
    digest = shop.add("yesterday", "1.0", tag="cp39-cp39-manylinux_2_17_x86_64")
    text = refused(shopper, needing("yesterday"))
    assert text.startswith("requirements.txt: Because yesterday==1.0 has no wheels") and "from wheels only" in text
    text = refused(shopper, PROGRAM | {"requirements.lock": f"yesterday==1.0 --hash=sha256:{digest}\n"})
    assert text.startswith("requirements.lock: ") and "chosen anew by: fildes publish DIR --upgrade --lock" in text
