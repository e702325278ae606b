"""Programs of ours on the framework that a program uses: they answer what an instance's rehearsed life asks of them."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

import pytest

from fildes.runtime import asgi, frameworks, warm


@pytest.mark.parametrize("name", ["fastapi", "starlette", ""])
def test_each_request_is_answered(name: str) -> None:
    if name:
        pytest.importorskip(name)
        importlib.import_module(f"{name}.routing")
    program = getattr(frameworks, f"_of_{name}")() if name else warm.nobodys
    said: list[Any] = []

    async def heard(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def told(message: dict[str, Any]) -> None:
            said.append((scope.get("method", ""), scope.get("path", ""), message.get("status", message["type"])))
            await send(message)

        await program(scope, receive, told)

    warm.live(asgi._new_loop(), heard, asgi._practised)
    assert [one for one in said if not one[0]] == [
        ("", "", "lifespan.startup.complete"),
        ("", "", "lifespan.shutdown.complete"),
    ]
    asked = [one for one in said if isinstance(one[2], int)]
    other = 404 if name == "starlette" else 200  # it has no models
    assert {("GET", "/", 200), ("GET", "/items/7", 200), ("GET", "/model", other)} <= set(asked)
    assert threading.active_count() == 1  # a zygote with threads can't be forked


def test_only_what_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("fastapi", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    assert frameworks.programs() is None
    monkeypatch.setitem(sys.modules, "starlette.routing", sys)
    assert frameworks.programs() is frameworks._of_starlette
    monkeypatch.setitem(sys.modules, "fastapi", sys)
    assert frameworks.programs() is frameworks._of_fastapi
