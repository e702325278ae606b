"""The framework's code runs in the zygote, with a program of ours; whatever happens in it, loading goes on."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from typing import Any

import pytest

from fildes.runtime import frameworks


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    said: list[Any] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message.get("body") or message.get("status") or message["type"])

    monkeypatch.setattr(frameworks, "_send", send)
    return said


EXPECTED = ["lifespan.startup.complete", "lifespan.shutdown.complete", 200, 200, 200]


@pytest.mark.parametrize("name", ["fastapi", "starlette"])
def test_each_request_is_answered(name: str, said: list[Any]) -> None:
    pytest.importorskip(name)
    frameworks._drive(getattr(frameworks, f"_of_{name}"))
    assert [one for one in said if not isinstance(one, bytes)] == EXPECTED * frameworks.ROUNDS
    assert said[-1] in (b'{"key":[1,"value"]}', b'{"key": [1, "value"]}')
    assert threading.active_count() == 1  # a zygote with threads can't be forked


def test_nothing_without_a_framework(monkeypatch: pytest.MonkeyPatch, said: list[Any]) -> None:
    for name in [name for name in sys.modules if name.startswith(("fastapi", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    frameworks.warm()
    assert said == []


def test_one_that_is_something_else_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", types.ModuleType("fastapi"))
    frameworks.warm()


def test_one_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(frameworks, "LIMIT", 0.01)
    monkeypatch.setitem(sys.modules, "fastapi", types.ModuleType("fastapi"))
    monkeypatch.setattr(frameworks, "_of_fastapi", lambda: stuck)
    frameworks.warm()
