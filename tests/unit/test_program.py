"""What a manifest's entry names is found, or the text says what is there instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fildes.runtime.program import CannotLoad, find

SOURCE = """
def app(): return "app"
def create_app(): return app
def nothing(): pass
class kinds:
    @staticmethod
    def make(): return app
async def later(): return app
def fails(): raise LookupError("on purpose")
words = "x"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "shopfront.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shopfront", raising=False)
    return [str(tmp_path)]


@pytest.mark.parametrize("entry", ["shopfront:app", "shopfront:create_app()", "shopfront:kinds.make()"])
def test_a_program_or_a_factory_of_one(folder: list[str], entry: str) -> None:
    assert find(entry, folder)() == "app"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("shopfront:nothing()", "returns a NoneType, which can't be called"),
        ("shopfront:words()", "that is a str, which can't be called"),
        ("shopfront:create_ap()", "did you mean 'create_app'?"),
        ("shopfrnt:create_app()", "did you mean 'shopfront'?"),
        ("shopfront:create_app(1)", 'expected "module:attribute"'),
        ("shopfront", 'expected "module:attribute"'),
    ],
)
def test_what_is_none(folder: list[str], entry: str, text: str) -> None:
    with pytest.raises(CannotLoad) as failed:
        find(entry, folder)
    assert text in str(failed.value)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_an_asynchronous_factory_is_none(folder: list[str]) -> None:
    with pytest.raises(CannotLoad, match="returns a coroutine"):
        find("shopfront:later()", folder)


def test_what_a_factory_raises_comes_through(folder: list[str]) -> None:
    with pytest.raises(LookupError, match="on purpose"):
        find("shopfront:fails()", folder)
