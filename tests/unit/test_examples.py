"""The examples as what they are, ASGI programs: spoken to without a node. tests/journeys runs them on one."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fildes import sdk
from fildes.manifest.reader import read
from fildes.sdk.client import Response

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/fildes.toml"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Client:
    """One request at a time to an ASGI program."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    def __call__(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        sent: list[dict[str, Any]] = []
        parts = [body[at : at + 4096] for at in range(0, len(body), 4096)] or [b""]
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = False

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
        asyncio.run(asyncio.wait_for(_call(self.app, scope, receive, send), 10))
        headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        return sent[0]["status"], headers, b"".join(message["body"] for message in sent[1:])


async def _call(app: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    await app(*arguments)


@pytest.mark.parametrize("name", FOLDERS)
def test_each_folder_is_a_service_with_a_line_in_the_readme(name: str) -> None:
    manifest = read((EXAMPLES / name / "fildes.toml").read_bytes())
    assert manifest.name == name
    if manifest.runtime == "asgi":
        module, _, attribute = manifest.entry.partition(":")
        assert re.search(rf"^(async def )?{attribute}\b", (EXAMPLES / name / f"{module}.py").read_text(), re.MULTILINE)
    assert f"| `{name}` |" in (EXAMPLES / "README.md").read_text()


def test_the_readme_lists_no_folder_that_is_not_there() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)) == FOLDERS


def test_guests_are_shown_what_guests_wrote_and_no_markup_of_theirs(tmp_path: Path) -> None:
    module = load("guestbook")
    module.DATABASE = str(tmp_path / "guests.sqlite3")
    ask = Client(module.app)
    assert ask("POST", "/", b"name=Ada&text=%3Cscript%3E+%26+more")[0] == 303
    status, _, page = ask("GET", "/")
    assert status == 200
    assert b"<b>Ada</b>" in page and b"&lt;script&gt; &amp; more" in page
    assert ask("POST", "/", b"name=Ada")[0] == 422
    assert ask("POST", "/", b"name=A&text=" + b"x" * 20_000)[0] == 413
    assert ask("DELETE", "/")[0] == 405
    for number in range(105):
        ask("POST", "/", b"name=n&text=%d" % number)
    assert len(module.written()) == 100


def test_what_one_says_in_the_chat_all_hear() -> None:
    module = load("chat")

    async def scene() -> list[list[str]]:
        rooms: list[tuple[asyncio.Queue[dict[str, Any]], list[str]]] = [(asyncio.Queue(), []) for _ in range(2)]
        tasks = []
        for incoming, heard in rooms:

            async def send(message: dict[str, Any], heard: list[str] = heard) -> None:
                if message["type"] == "websocket.send":
                    heard.append(message["text"])

            await incoming.put({"type": "websocket.connect"})
            tasks.append(asyncio.create_task(_call(module.app, {"type": "websocket"}, incoming.get, send)))
            while len(module.listeners) < len(tasks):
                await asyncio.sleep(0)
        await rooms[0][0].put({"type": "websocket.receive", "text": " hello "})
        await rooms[0][0].put({"type": "websocket.receive", "bytes": b"x"})
        while "hello" not in rooms[1][1]:
            await asyncio.sleep(0)
        for incoming, _ in rooms:
            await incoming.put({"type": "websocket.disconnect"})
        await asyncio.gather(*tasks)
        return [heard for _, heard in rooms]

    one, other = asyncio.run(asyncio.wait_for(scene(), 10))
    assert "hello" in one and "hello" in other
    assert not module.listeners


def test_the_ticker_sends_the_time_of_its_grant_until_the_reader_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        def time_ns(self) -> int:
            return 1_769_852_467_999_000_000

    monkeypatch.setattr(sdk, "clock", Clock)
    module = load("ticker")

    async def scene() -> list[bytes]:
        chunks: list[bytes] = []
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            chunks.append(message.get("body", b""))
            if len(chunks) == 4:
                gone.set()

        await module.app({"type": "http", "path": "/events"}, receive, send)
        return chunks

    assert asyncio.run(asyncio.wait_for(scene(), 10))[1:4] == [b"data: 1769852467999\n\n"] * 3


def test_the_ledger_books_what_is_whole_and_nothing_else() -> None:
    ask = Client(load("ledger").app)
    assert ask("POST", "/entries", b'{"item": "tea", "cents": 320}')[0] == 201
    for bad in (b"", b"{}", b"[]", b'{"item": 1, "cents": 2}', b'{"item": "x", "cents": true}', b"\xff", b"[" * 5000):
        assert ask("POST", "/entries", bad)[0] == 422
    assert json.loads(ask("GET", "/balance")[2]) == {"cents": 320, "entries": 1}
    assert ask("GET", "/")[0] == 404


def test_the_shop_keeps_its_books_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Client(load("ledger").app)

    async def fetch(name: str, path: str, *, method: str = "GET", body: bytes = b"") -> Response:
        assert name == "ledger"
        status, headers, answer = await asyncio.to_thread(ledger, method, path, body)
        return Response(status, headers, answer)

    monkeypatch.setattr(sdk, "fetch", fetch)
    ask = Client(load("shop").app)
    assert ask("POST", "/buy/tea")[:2][0] == 303
    assert ask("POST", "/buy/gold")[0] == 404
    page = ask("GET", "/")[2].decode()
    assert "Sold so far: 1 things, 3.20" in page


def test_the_shop_says_what_the_bus_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(*_: Any, **__: Any) -> Response:
        raise sdk.Denied("not-offered", "ledger does not offer itself to shop", '[offers]\nto = ["shop"]')

    monkeypatch.setattr(sdk, "fetch", fetch)
    status, _, page = Client(load("shop").app)("GET", "/")
    assert status == 503 and b'to = ["shop"]' in page


def test_the_sites_links_lead_somewhere() -> None:
    site = EXAMPLES / "site"
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            target = site / link.lstrip("/") if link.startswith("/") else page.parent / link
            target = target / "index.html" if link.endswith("/") else target
            assert target.is_file() or link == "nowhere", f"{page}: {link}"
