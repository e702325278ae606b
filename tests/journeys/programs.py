"""A real program twice: published on a node, and by its ordinary server, unconfined, with the same packages."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from fildes.testing import Node, eventually

from .conftest import APPS

# The server names itself, dates its answers, says whether it keeps the connection and how it frames: that is its own.
SERVER_S_OWN = {"date", "server", "connection", "keep-alive", "transfer-encoding"}
FORM = MappingProxyType({"Content-Type": "application/x-www-form-urlencoded"})
JSON = MappingProxyType({"Content-Type": "application/json"})


class Ask(NamedTuple):
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = MappingProxyType({})


class Heard(NamedTuple):
    """`headers`: names in lower case, sorted, without the server's own."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Twins(NamedTuple):
    """The program under its host on a node, and where it runs unconfined."""

    node: Node
    host: str
    unconfined: tuple[str, int]

    @property
    def confined(self) -> tuple[str, int]:
        return self.node.addresses[0]

    def both(self, one: Ask) -> tuple[Heard, Heard]:
        """What the confined and what the unconfined one say."""
        return ask(self.confined, self.host, one), ask(self.unconfined, self.host, one)

    def agree(self, asks: Sequence[Ask], *, varying: Sequence[str] = ()) -> list[Heard]:
        """Ask both, one after the other; the confined answers. What matches a pattern changes by itself."""
        heard = []
        for one in asks:
            confined, unconfined = (blurred(answer, varying) for answer in self.both(one))
            assert confined == unconfined, f"{one.method} {one.path}: {difference(confined, unconfined)}"
            heard.append(confined)
        return heard


def ask(address: tuple[str, int], host: str, one: Ask, timeout: float = 20.0) -> Heard:
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=timeout)) as connection:
        connection.request(one.method, one.path, one.body, {"Host": host, **one.headers})
        answer = connection.getresponse()
        headers = [(name.lower(), value) for name, value in answer.headers.items()]
        # A set of methods is in the order of hashes.
        headers = [(name, "".join(sorted(value)) if name == "allow" else value) for name, value in headers]
        body = answer.read()
        # Whether a length is said that can be seen is the server's own, too.
        seen = one.method != "HEAD" and answer.headers.get("Content-Length") == str(len(body))
        own = SERVER_S_OWN | ({"content-length"} if seen else set())
        return Heard(answer.status, sorted(header for header in headers if header[0] not in own), body)


def blurred(heard: Heard, patterns: Sequence[str]) -> Heard:
    """With "…" for what matches; the times in a gzip's head are zero."""
    body = heard.body
    if body[:4] == b"\x1f\x8b\x08\x00":
        body = body[:4] + bytes(4) + body[8:]
    headers = heard.headers
    for pattern in patterns:
        body = re.sub(pattern.encode(), b"...", body)
        headers = [(name, re.sub(pattern, "...", value)) for name, value in headers]
    return Heard(heard.status, headers, body)


def difference(one: Heard, other: Heard) -> str:
    """What differs, short enough to be read."""
    if one.status != other.status or one.headers != other.headers:
        return f"{one.status} {sorted({*one.headers} - {*other.headers})} {one.body[-300:]!r}, unconfined " + (
            f"{other.status} {sorted({*other.headers} - {*one.headers})} {other.body[-300:]!r}"
        )
    at = next((at for at, pair in enumerate(zip(one.body, other.body)) if pair[0] != pair[1]), -100)  # noqa: B905
    near = slice(max(0, at - 60), at + 60)
    return f"at byte {at} of {len(one.body)}: {one.body[near]!r}, unconfined, {len(other.body)}: {other.body[near]!r}"


def multipart(*files: tuple[str, str, str, bytes], **fields: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form with files (field, file name, content type, content), as browsers send it."""
    line = b"--frontier\r\nContent-Disposition: form-data; "
    body = b"".join(line + f'name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items())
    for field, name, kind, content in files:
        head = f'name="{field}"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
        body += line + head.encode() + content + b"\r\n"
    return body + b"--frontier--\r\n", {"Content-Type": "multipart/form-data; boundary=frontier"}


def taken(name: str, folder: Path) -> Path:
    """The program of that name in apps/, copied into `folder`: whole seconds, as a release keeps them."""
    app = folder / name
    shutil.copytree(APPS / name, app, ignore=shutil.ignore_patterns("__pycache__"))
    for path in app.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return app


@contextlib.contextmanager
def unconfined(
    app: Path, packages: Path, *command: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, int]]:
    """Where the program listens: `python COMMAND…` in the folder `app`, FD and PORT in it replaced.

    FD is a listening socket; a server that wants to make its own is given PORT.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address: tuple[str, int] = listening.getsockname()
        words = [word.replace("FD", str(listening.fileno())).replace("PORT", str(address[1])) for word in command]
        if any("PORT" in word for word in command):
            listening.close()
        given = [listening.fileno()] if listening.fileno() >= 0 else []
        where = {"PYTHONPATH": f"{packages}:{app}", "PYTHONDONTWRITEBYTECODE": "1"}
        with open(app.parent / "unconfined.log", "wb") as log:
            server = subprocess.Popen(
                [sys.executable, *words],
                cwd=app,
                env={**os.environ, **where, **environment},
                pass_fds=given,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(lambda: server.poll() is not None or answers(address), 20, "the unconfined one answers")
            assert server.poll() is None, (app.parent / "unconfined.log").read_text()
            yield address
        finally:
            server.terminate()  # in order: gunicorn ends its workers then
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(3)
            server.kill()
            server.wait()


def answers(address: tuple[str, int]) -> bool:
    try:
        ask(address, "localhost", Ask("GET", "/robots.txt"), timeout=10)
    except OSError:
        return False
    return True
