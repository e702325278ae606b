"""A FastAPI program that knows nothing of Fildes: every answer is what uvicorn gives, unconfined, with the same
packages; but for what the clock and chance put into it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from fildes.testing import Node, eventually

from .conftest import APPS, install

HOST = "studio.localhost"
# The server names itself, dates its answers, and says whether it keeps the connection: that is its own.
SERVER_S_OWN = {"date", "server", "connection"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
UVICORN = """
import socket, sys, uvicorn
with socket.socket(fileno=int(sys.argv[1])) as listening:
    config = uvicorn.Config("studio:app", log_level="critical", ws="websockets-sansio", lifespan="on")
    uvicorn.Server(config).run(sockets=[listening])
"""


class Ask(NamedTuple):
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = MappingProxyType({})


def parts(*files: tuple[str, str, bytes], **fields: str) -> Ask:
    """A form with files (field, file name, content), as browsers send it."""
    line = b"--frontier\r\nContent-Disposition: form-data; "
    body = b"".join(line + f'name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items())
    for field, name, content in files:
        head = f'name="{field}"; filename="{name}"\r\nContent-Type: image/x-test\r\n\r\n'
        body += line + head.encode() + content + b"\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=frontier"}
    return Ask("POST", "/upload", body + b"--frontier--\r\n", form)


PAINTING = {"title": "Blue", "painted": "1961-03-04", "colours": ["blue", "red"], "size": {"width": 2.5, "height": 3}}
NOISE = random.Random(1).randbytes(3_000_000)  # more than is kept in memory: the form parser makes a temporary file
# One after the other to both: the later ones see what the earlier ones did.
ASKS = [
    Ask("GET", "/"),
    Ask("HEAD", "/static/style.css"),
    Ask("GET", "/lazy"),
    Ask("GET", "/data"),
    Ask("GET", "/zone"),
    Ask("GET", "/download"),
    Ask("GET", "/download", headers={"Range": "bytes=100-199"}),
    Ask("GET", "/static/style.css"),
    Ask("GET", "/static/nothing.css"),
    Ask("GET", "/static/../studio.py"),
    Ask("POST", "/paintings", json.dumps(PAINTING).encode(), JSON),
    Ask("POST", "/paintings", json.dumps(PAINTING | {"title": "LOUD", "size": {"width": -1}}).encode(), JSON),
    Ask("POST", "/paintings", b'{"title": ', JSON),
    Ask("POST", "/paintings", b"title=Blue", FORM),
    Ask("GET", "/paintings/1"),
    Ask("GET", "/paintings/2"),
    Ask("GET", "/paintings/one"),
    Ask("GET", "/search?q=sea&colour=red&limit=3", headers={"Accept-Language": "de", "Cookie": "seen=yes; x=y"}),
    Ask("GET", "/search?q=" + "%F0%9F%96%BC" * 20 + "&limit=1000&colour=green"),
    Ask("GET", "/search?q=%C3%BC+%26"),
    parts(("files", "a.png", b"\x89PNG\r\n"), ("files", "leer", b""), note="zwei"),
    parts(("files", "groß.bin", NOISE)),
    parts(note="no file"),
    Ask("POST", "/scratch", b"text=a+rose+is+a+rose", FORM),
    Ask("GET", "/stream"),
    Ask("GET", "/stream?lines=2000"),
    Ask("GET", "/stream-sync"),
    Ask("GET", "/large"),
    Ask("GET", "/stream?lines=2000", headers={"Accept-Encoding": "gzip"}),
    Ask("GET", "/draw"),
    Ask("GET", "/old"),
    Ask("GET", "/cookie"),
    Ask("GET", "/broken"),
    Ask("GET", "/nowhere"),
    Ask("DELETE", "/search"),
    Ask("OPTIONS", "/search"),
    Ask("GET", "/docs"),
    Ask("GET", "/openapi.json"),
    Ask("GET", "/openapi.json", headers={"Accept-Encoding": "gzip"}),
]


class Studio(NamedTuple):
    node: Node
    unconfined: tuple[str, int]


@pytest.fixture(scope="module")
def studio(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("fastapi")
    app = folder / "app"
    shutil.copytree(APPS / "fastapi_app", app, ignore=shutil.ignore_patterns("__pycache__"))
    for path in app.rglob("*"):  # a release keeps whole seconds
        os.utime(path, (1_700_000_000, 1_700_000_000))
    town.fildes("publish", str(app), timeout=180)
    requirements = str(APPS / "fastapi_app" / "requirements.txt")
    packages = install(folder / "packages", "-r", requirements, "uvicorn", "websockets")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = subprocess.Popen(
            [sys.executable, "-c", UVICORN, str(listening.fileno())],
            cwd=app,
            env={**os.environ, "PYTHONPATH": f"{packages}:{app}", "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=[listening.fileno()],
        )
        try:
            leave_a_stream(town)  # what comes of it is looked at by the last test: noticing may take seconds
            yield Studio(town, listening.getsockname())
        finally:
            server.kill()
            server.wait()


def leave_a_stream(node: Node) -> None:
    connection = http.client.HTTPConnection(*node.addresses[0], timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/stream?lines=2&pause=30", headers={"Host": HOST})
        answer = connection.getresponse()
        assert answer.readline() == b"line 0\n", "it arrives as it is made: the next is half a minute away"


class Heard(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


def ask(address: tuple[str, int], one: Ask) -> Heard:
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request(one.method, one.path, one.body, {"Host": HOST, **one.headers})
        answer = connection.getresponse()
        headers = [(name.lower(), value) for name, value in answer.headers.items()]
        kept = sorted(header for header in headers if header[0] not in SERVER_S_OWN)
        return Heard(answer.status, kept, answer.read())
    finally:
        connection.close()


def test_every_answer_is_what_uvicorn_gives(studio: Studio) -> None:
    for one in ASKS:
        confined = ask(studio.node.addresses[0], one)
        assert confined == ask(studio.unconfined, one), one[:2]
        assert confined.status != 500 or one.path == "/broken", one[:2]


def test_all_of_it_over_one_connection(studio: Studio) -> None:
    connection = http.client.HTTPConnection(*studio.node.addresses[0], timeout=20)
    connection.connect()
    first = connection.sock
    for one in ASKS:
        connection.request(one.method, one.path, one.body, {"Host": HOST, **one.headers})
        answer = connection.getresponse()
        answer.read()
        assert connection.sock is first or one.path == "/broken", one[:2]
    connection.close()


def test_files_that_are_not_in_the_release(studio: Studio) -> None:
    """Not granted, and said so: where an unconfined program would read the machine's own."""
    told = json.loads(ask(studio.node.addresses[0], Ask("GET", "/open?path=/etc/shadow")).body)
    assert told["error"] in ("PermissionError", "FileNotFoundError")
    assert "grants.files" in told["text"] or "not in this release" in told["text"], told


def test_background_tasks_come_after_the_answer(studio: Studio) -> None:
    address = studio.node.addresses[0]
    assert ask(address, Ask("POST", "/notes/milk")).status == 202
    eventually(lambda: "milk" in json.loads(ask(address, Ask("GET", "/notes")).body))


def test_the_clock_and_chance_are_real(studio: Studio) -> None:
    told = [json.loads(ask(studio.node.addresses[0], Ask("GET", "/now")).body) for _ in range(50)]
    assert all(abs(one["now"] - time.time()) < 60 for one in told)
    assert [one["now"] for one in told] == sorted(one["now"] for one in told)
    assert len({uuid.UUID(one["id"]) for one in told}) == 50


def test_the_log_has_what_the_program_says(studio: Studio) -> None:
    ask(studio.node.addresses[0], Ask("GET", "/broken"))
    ask(studio.node.addresses[0], Ask("GET", "/draw"))
    log = studio.node.fildes("logs", "studio").stdout
    assert "RuntimeError: the canvas tore" in log and 'File "/app/studio.py"' in log
    assert "the pencil is back" in log


def test_websockets(studio: Studio) -> None:
    async def scene(address: tuple[str, int]) -> list[Any]:
        url = f"ws://{HOST}/talk?name=Ada"
        heard: list[Any] = []
        options: dict[str, Any] = {"host": address[0], "port": address[1], "proxy": None}
        socket: ClientConnection
        async with connect(url, subprotocols=[Subprotocol("studio")], **options) as socket:
            heard.append(socket.subprotocol)
            for message in ("hi", {"nested": ["ü", None, 1.5]}, "x" * 200_000):
                await socket.send(json.dumps(message))
                heard.append(json.loads(await socket.recv()))
            await socket.ping()
        heard.append(socket.close_code)
        return heard

    confined, unconfined = (
        asyncio.run(asyncio.wait_for(scene(address), 20)) for address in (studio.node.addresses[0], studio.unconfined)
    )
    assert confined == unconfined
    eventually(lambda: "gone 1000" in json.loads(ask(studio.node.addresses[0], Ask("GET", "/notes")).body))


def test_many_at_once(studio: Studio) -> None:
    """Sync routes run in threads, uploads in temporary files: side by side, none takes another's."""

    async def one(number: int) -> bool:
        content = random.Random(number).randbytes(1_200_000)
        upload = parts(("files", f"{number}", content))
        answer = await asyncio.to_thread(ask, studio.node.addresses[0], upload)
        looked = await asyncio.to_thread(ask, studio.node.addresses[0], Ask("GET", "/lazy"))
        told = json.loads(answer.body)["files"][0]
        return looked.status == 200 and told["sha256"] == hashlib.sha256(content).hexdigest()

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(one(number) for number in range(12)))

    assert all(asyncio.run(asyncio.wait_for(all_of_them(), 30)))


def test_a_stream_that_was_left_was_ended(studio: Studio) -> None:
    eventually(lambda: "the stream was left" in studio.node.fildes("logs", "studio").stdout)
