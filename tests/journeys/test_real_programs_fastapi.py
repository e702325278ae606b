"""A FastAPI program of several routers with dependencies that open and close, security, background tasks, uploads,
streams and a WebSocket: as uvicorn serves it, unconfined.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fildes.testing import Node, eventually

from .conftest import install
from .programs import FORM, JSON, Ask, Twins, ask, multipart, taken, unconfined

HOST = "counter.localhost"
ADA = {"Authorization": "Bearer ada.token"}
BOB = {"Authorization": "Bearer bob.token", "X-Trace": "t-1"}
NOISE = random.Random(3).randbytes(1_500_000)
LARGE, LARGE_KIND = multipart(
    ("files", "größe.bin", "application/x-noise", NOISE), ("files", "b", "text/plain", b""), note="zwei"
)
SHORT, SHORT_KIND = multipart(note="x" * 30)
TABLE, TABLE_KIND = multipart(("content", "t.csv", "text/csv", "a,b\n1,ü\n".encode()))
NO_TEXT, NO_TEXT_KIND = multipart(("content", "t.csv", "text/csv", b"\xff\xfe\xfd"))


def wish(headers: dict[str, str] = ADA, **fields: Any) -> Ask:
    return Ask("POST", "/tickets/", json.dumps(fields).encode(), JSON | headers)


ASKS = [
    *(
        Ask("GET", path)
        for path in ("/health", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/nowhere")
    ),
    *(Ask("GET", path) for path in ("/inner/openapi.json", "/inner/docs", "/inner/v1/tickets/7", "/tickets/7")),
    Ask("POST", "/people/token", b"username=ada&password=kunst&scope=a+b", FORM),
    Ask("POST", "/people/token", b"username=ada&password=falsch", FORM),
    Ask("POST", "/people/token", b"username=ada", FORM),
    Ask("GET", "/people/me"),
    *(
        Ask("GET", "/people/me", headers=who)
        for who in (ADA, BOB | {"Cookie": "badge=b"}, {"Authorization": "Bearer x"})
    ),
    *(Ask("GET", "/people/raw", headers=who) for who in (ADA, {}, {"Authorization": "Basic eA=="})),
    wish(title="a permit", mail="ada@example.org", fee="2.25", rank=2),
    wish(BOB, title="  spaces  ", begin="2026-01-02", end="2026-01-03", about={"kind": "dog", "chipped": True}),
    wish(title="a car", about={"kind": "car", "plate": "B-12"}),
    wish(title="x", mail="no", rank=3, fee="1.234", about={"kind": "cat"}, more=1),
    wish(title="order", begin="2026-01-03", end="2026-01-02"),
    wish(title="the last form"),
    wish({}, title="nobody"),
    Ask("POST", "/tickets/", b'{"title": "a', JSON | ADA),
    Ask("POST", "/tickets", b"{}", JSON | ADA),
    *(Ask("GET", f"/tickets/{rest}") for rest in ("", "?skip=1&limit=1", "?skip=-1&limit=51", "0", "x", "journal/all")),
    Ask("PATCH", "/tickets/1", b'{"title": "changed"}', JSON | ADA),
    Ask("PATCH", "/tickets/1", b'{"title": "changed"}', JSON | BOB),
    Ask("PATCH", "/tickets/99", b'{"title": "changed"}', JSON | BOB),
    Ask("PATCH", "/tickets/1", b'"changed"', JSON | ADA),
    Ask("DELETE", "/tickets/2"),
    Ask("GET", "/tickets/"),
    Ask("PUT", "/tickets/1"),
    Ask("HEAD", "/tickets/1"),
    Ask("POST", "/files/", LARGE, LARGE_KIND),
    Ask("POST", "/files/", SHORT, SHORT_KIND),
    Ask("POST", "/files/", LARGE[:1000], LARGE_KIND),
    Ask("POST", "/files/table", TABLE, TABLE_KIND),
    Ask("POST", "/files/table", NO_TEXT, NO_TEXT_KIND),
    Ask("PUT", "/files/raw", NOISE, {"Content-Type": "application/x-noise"}),
    Ask("GET", "/files/rows"),
    Ask("GET", "/files/rows?n=0"),
    Ask("GET", "/files/breaks"),
    Ask("GET", "/events"),
    Ask("GET", "/rooms/one"),
    Ask("GET", "/tickets/now/utc"),
    Ask("OPTIONS", "/tickets/", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}),
    Ask("OPTIONS", "/tickets/", headers={"Origin": "https://b.example", "Access-Control-Request-Method": "POST"}),
    Ask("GET", "/health", headers={"Origin": "https://a.example"}),
]


@pytest.fixture(scope="module")
def counter(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp("counter")
    app = taken("counter", folder)
    town.fildes("publish", str(app), timeout=180)
    packages = install(folder / "packages", "-r", str(app / "requirements.txt"), "uvicorn", "websockets")
    command = ["-m", "uvicorn", "--fd", "FD", "--ws", "websockets-sansio", "--factory", "counter.main:create_app"]
    with unconfined(app, packages, *command, environment={"COUNTER_TITLE": "Counter"}) as address:
        yield Twins(town, HOST, address)
    town.fildes("rm", "counter", check=False)


def test_every_answer_is_what_uvicorn_gives(counter: Twins) -> None:
    heard = counter.agree(ASKS, varying=[r'"\d{4}-\d\d-\d\dT[\d:.]+Z"'])
    assert [one.path for one, answer in zip(ASKS, heard, strict=True) if answer.status == 500] == ["/files/breaks"]
    assert {200, 201, 204, 307, 400, 401, 403, 404, 405, 422, 507} <= {answer.status for answer in heard}


def test_after_the_answers(counter: Twins) -> None:
    """Background tasks have run, and what dependencies opened is closed."""
    for address in (counter.confined, counter.unconfined):

        def journal(address: tuple[str, int] = address) -> Any:
            return json.loads(ask(address, HOST, Ask("GET", "/tickets/journal/all")).body)

        assert ask(address, HOST, wish(title="for the journal")).status == 201
        eventually(lambda: any("ada drew" in line for line in journal()["journal"]), 10)
        assert ask(address, HOST, wish(title="the last form")).status == 507
        assert journal()["journal"][-1] == "rolled back" and journal()["open"] == 0


def test_a_room_in_which_two_talk(counter: Twins) -> None:
    async def scene(address: tuple[str, int]) -> list[Any]:
        options: dict[str, Any] = {"host": address[0], "port": address[1], "proxy": None}
        url = f"ws://{HOST}/rooms/"
        heard: list[Any] = []
        async with connect(f"{url}a?name=ada", **options) as ada, connect(f"{url}a?name=bob", **options) as bob:
            heard.append(ada.response.headers["x-room"] if ada.response else None)
            await bob.send("ready")  # so that both are there
            heard += [json.loads(await ada.recv()), json.loads(await bob.recv())]
            await ada.send("hello ü" * 1000)
            heard += [json.loads(await ada.recv()), json.loads(await bob.recv())]
            await bob.send("bye")
            try:
                await bob.recv()
            except ConnectionClosed:
                heard.append((bob.close_code, bob.close_reason))
        for path in ("a?name=eve", "a"):
            try:
                async with connect(url + path, **options):
                    heard.append("let in")
            except InvalidStatus as error:
                heard.append(error.response.status_code)
        return heard

    addresses = (counter.confined, counter.unconfined)
    confined, unconfined = (asyncio.run(asyncio.wait_for(scene(address), 20)) for address in addresses)
    assert confined == unconfined
    assert (4000, "as you wish") in confined and confined[-1] == 403
