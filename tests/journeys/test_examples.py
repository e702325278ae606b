"""Every example on a real node: published, spoken to, and what its capabilities promise."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from fildes.testing import Node, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example(town: Node) -> Node:
    """The node that journeys share, with all examples that need nothing from a package index."""
    for name in ("guestbook", "chat", "ticker", "site", "ledger", "shop", "tally", "votes"):
        town.fildes("publish", str(EXAMPLES / name))
    return town


def test_the_guestbook_keeps_what_guests_write_with_the_time_of_its_grant(example: Node) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    host = "guestbook.localhost"
    signed = example.request("/", host=host, method="POST", body=b"name=Ada&text=hello+there", headers=form)
    assert signed.status == 303
    page = example.request("/", host=host).body.decode()
    assert "<title>Guests</title>" in page  # from [env]
    found = re.search(r"<b>Ada</b> <small>([^<]+)</small><br>hello there", page)
    assert found is not None
    told = time.mktime(time.strptime(found[1], "%d %B %Y, %H:%M")) - time.timezone
    assert abs(told - time.time()) < 120


def test_the_ticker_streams_the_time(example: Node) -> None:
    client = http.client.HTTPConnection(*example.addresses[0], timeout=15)
    client.request("GET", "/events", headers={"Host": "ticker.localhost"})
    response = client.getresponse()
    assert response.getheader("content-type") == "text/event-stream"
    for _ in range(3):
        line = response.readline()
        assert response.readline() == b"\n"
        assert abs(int(line.removeprefix(b"data: ")) / 1000 - time.time()) < 0.5
    client.close()


def test_the_chat_tells_everybody(example: Node) -> None:
    address, port = example.addresses[0]

    async def scene() -> list[str]:
        url = "ws://chat.localhost/room"
        async with (
            connect(url, host=address, port=port, proxy=None) as ada,
            connect(url, host=address, port=port, proxy=None) as bob,
        ):
            assert await bob.recv() == "(someone came in: 2 here)"
            await ada.send("hello, Bob")
            heard = [await bob.recv()]
            await bob.send("hello, Ada")
            while "hello, Ada" not in heard:
                heard.append(await ada.recv())
            return heard

    heard = asyncio.run(asyncio.wait_for(scene(), 15))
    assert heard[0] == "hello, Bob" and heard[-1] == "hello, Ada"


def test_the_site_is_served_as_it_lies_there(example: Node) -> None:
    host = "site.localhost"
    for path, file in (("/", "index.html"), ("/about/", "about/index.html"), ("/css/style.css", "css/style.css")):
        answer = example.request(path, host=host)
        assert (answer.status, answer.body) == (200, (EXAMPLES / "site" / file).read_bytes())
    missing = example.request("/nowhere", host=host)
    assert (missing.status, missing.body) == (404, (EXAMPLES / "site" / "404.html").read_bytes())


def test_the_shop_books_in_the_ledger_over_kills_of_the_bus(example: Node) -> None:
    """The ledger has no host: it is reached by introduction or not at all."""
    host = "shop.localhost"
    before = _sold(example)
    for _ in range(3):
        assert example.request("/buy/tea", host=host, method="POST", body=b"").status == 303
        example.kill("bus")
        assert example.request("/buy/cake", host=host, method="POST", body=b"").status == 303
    assert _sold(example) == before + 6
    assert example.request("/balance", host="ledger.localhost").status == 404


def _sold(node: Node) -> int:
    found = re.search(rb"Sold so far: (\d+) things", node.request("/", host="shop.localhost").body)
    assert found is not None
    return int(found[1])


def test_a_sleeping_ledger_is_woken_by_who_is_introduced(example: Node) -> None:
    example.fildes("stop", "ledger")
    assert _sold(example) == 0  # its books were in memory


def test_a_refusal_is_explained_with_the_lines_to_add(example: Node, tmp_path: Path) -> None:
    folder = tmp_path / "greedy"
    folder.mkdir()
    (folder / "fildes.toml").write_text(
        'name = "greedy"\nruntime = "asgi"\nentry = "greedy:app"\nhosts = ["greedy.localhost"]\n'
    )
    (folder / "greedy.py").write_text(
        "from fildes import sdk\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http': return\n"
        "    try: await sdk.fetch('ledger', '/balance'); text = 'got it'\n"
        "    except sdk.Denied as denied: text = str(denied)\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': text.encode()})\n"
    )
    example.fildes("publish", str(folder))
    lines = '[grants.ledger]\nkind = "connect"\nto = "ledger"'
    assert lines in example.request("/", host="greedy.localhost").body.decode()
    denials = json.loads(example.fildes("explain", "greedy", "--json").stdout)
    assert lines in json.dumps(denials).encode().decode("unicode_escape")
    eventually(lambda: "refused: greedy asked for 'ledger'" in example.fildes("logs", "greedy").stdout)
    example.fildes("rm", "greedy")


def test_votes_are_counted_by_a_service_without_http(example: Node) -> None:
    """A function calls it; it runs before anybody asks, and is told when it is to stop."""
    host = "votes.localhost"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    before = json.loads(example.request("/counts", host=host).body).get("cake", 0)
    assert example.request("/", host=host, method="POST", body=b"choice=cake", headers=form).status == 303
    assert example.request("/", host=host, method="POST", body=b"choice=money", headers=form).status == 400
    assert json.loads(example.request("/counts", host=host).body) == {"cake": before + 1}
    assert f"cake</button> {before + 1}".encode() in example.request("/", host=host).body
    assert "votes counts 'cake'" in example.fildes("logs", "tally").stdout
    example.fildes("stop", "tally")
    eventually(lambda: f"stopping; {before + 1} votes were counted" in example.fildes("logs", "tally").stdout)
    example.fildes("start", "tally")
    assert json.loads(example.request("/counts", host=host).body) == {}


@pytest.mark.slow
@pytest.mark.skipif("FILDES_OFFLINE" in os.environ, reason="it resolves packages")
def test_questions_in_flask_unmodified(example: Node) -> None:
    example.fildes("publish", str(EXAMPLES / "questions"), timeout=180)
    host = "questions.localhost"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert example.request("/", host=host, method="POST", body=b"text=Why%3F", headers=form).status == 302
    raised = example.request("/1/hand", host=host, method="POST", body=b"")
    cookie = {"Cookie": raised.headers["Set-Cookie"].partition(";")[0]}
    assert example.request("/1/hand", host=host, method="POST", body=b"", headers=cookie).status == 302
    page = example.request("/", host=host, headers=cookie).body.decode()
    assert "Why? — 1" in page and "I'd like to know too" not in page
    assert "I'd like to know too" in example.request("/", host=host).body.decode()
    assert example.request("/7/hand", host=host, method="POST", body=b"").status == 404


@pytest.mark.slow
@pytest.mark.skipif("FILDES_OFFLINE" in os.environ, reason="it resolves two packages")
def test_the_postcards_come_from_templates_with_dependencies_unchanged(example: Node) -> None:
    example.fildes("publish", str(EXAMPLES / "postcards"), timeout=180)
    host = "postcards.localhost"
    page = example.request("/", host=host)
    assert page.status == 200 and b"/from/night-train" in page.body
    assert b"Somewhere after midnight" in example.request("/from/night-train", host=host).body
    assert example.request("/from/nowhere", host=host).status == 404
    assert len(json.loads(example.request("/postcards.json", host=host).body)) == 3
