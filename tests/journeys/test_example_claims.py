"""What the examples' README and comments claim, held against them on a node, by curl and a WebSocket client."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from fildes.testing import Node

from .conftest import EXAMPLES, Curl, told


@pytest.fixture(scope="module")
def fair(town: Node) -> Node:
    for name in ("guestbook", "chat", "ledger", "shop"):
        town.fildes("publish", str(EXAMPLES / name))
    return town


def altered(name: str, folder: Path, *changes: tuple[str, str]) -> str:
    """The example in a folder of its own, with words of its manifest replaced."""
    target = folder / name
    shutil.copytree(EXAMPLES / name, target, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = target / "fildes.toml"
    text = manifest.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    manifest.write_text(text)
    return str(target)


def test_guests_are_kept_while_it_sleeps(fair: Node, curl: Curl) -> None:
    host = "guestbook.localhost"
    assert curl(fair, host, "/", "-d", "name=Ada", "--data-urlencode", "text=1 & 2").status == 303
    assert "1 &amp; 2" in curl(fair, host).body.decode()
    assert curl(fair, host, "/", "-d", "name=Ada").status == 422
    assert curl(fair, host, "/", "-X", "PUT").headers["allow"] == "GET, HEAD, POST"
    assert curl(fair, host, "/", "-d", "text=" + "x" * 20_000).status == 413
    fair.fildes("stop", "guestbook")
    assert "1 &amp; 2" in curl(fair, host).body.decode()


def test_the_chat_keeps_count(fair: Node) -> None:
    address, port = fair.addresses[0]

    def enter() -> connect:
        return connect("ws://chat.localhost/room", host=address, port=port, proxy=None)

    async def until(socket: ClientConnection, text: str) -> None:
        while await socket.recv() != text:
            pass

    async def scene() -> None:
        async with enter() as ada:
            await until(ada, "(someone came in: 1 here)")
            async with enter() as bob:
                await until(ada, "(someone came in: 2 here)")
                await bob.send("x" * 600)
                await until(ada, "x" * 500)
            await until(ada, "(someone left: 1 here)")

    asyncio.run(asyncio.wait_for(scene(), 15))


def test_without_the_grant_there_is_no_time(fair: Node, tmp_path: Path) -> None:
    blind = ('"ticker"', '"blind"'), ("ticker.localhost", "blind.localhost"), ("[grants.clock]", "")
    fair.fildes("publish", altered("ticker", tmp_path, *blind))
    address, port = fair.addresses[0]
    command = ["curl", "-sS", "-m", "10", "-H", "Host: blind.localhost", f"http://{address}:{port}/events"]
    heard = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert b"data:" not in heard.stdout
    assert "[grants.clock]" in fair.fildes("logs", "blind").stdout
    fair.fildes("rm", "blind")


def test_the_ledger_is_published_first(town: Node, tmp_path: Path) -> None:
    kiosk = ('"shop"', '"kiosk"'), ("shop.localhost", "kiosk.localhost"), ('"ledger"', '"books"')
    refused = town.fildes("publish", altered("shop", tmp_path, *kiosk), check=False)
    assert refused.returncode == 1
    assert "fildes.toml:" in refused.stderr and "books" in refused.stderr and "Traceback" not in refused.stderr


def test_nobody_reaches_the_ledger_but_the_shop(fair: Node, tmp_path: Path, curl: Curl) -> None:
    fair.fildes("stop", "ledger")  # with it go the books
    assert curl(fair, "shop.localhost", "/buy/cake", "-d", "").status == 303
    assert curl(fair, "shop.localhost", "/buy/gold", "-d", "").status == 404
    assert b"Sold so far: 1 things, 2.80" in curl(fair, "shop.localhost").body
    for host in ("ledger.localhost", "ledger"):
        assert curl(fair, host, "/balance").status == 404
    # Another that asks for it gets the sentence that would change that, before anything of it runs.
    thief = altered("shop", tmp_path, ('"shop"', '"thief"'), ("shop.localhost", "thief.localhost"))
    refused = fair.fildes("publish", thief, check=False)
    assert refused.returncode == 1 and "offer" in refused.stderr and "thief" in refused.stderr
    assert "thief" not in [service["service"] for service in told(fair, "ps")["services"]]


def test_the_demo() -> None:
    script = Path(__file__).parents[2] / "scripts" / "demo.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout and done.stdout.count("✓") > 15
