"""HTTP to another service over an introduced stream, with the standard library."""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse
from typing import Final, NamedTuple

from fildes.sdk import aio
from fildes.sdk.errors import Unavailable
from fildes.sdk.program import current

_LIMIT: Final = 16 << 20  # bytes of an answer that `fetch` keeps in memory


class Response(NamedTuple):
    """Header names are in lower case; of a repeated one the last counts."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Connection(HTTPConnection):
    """Connects by opening the grant: again whenever the other side has closed."""

    def __init__(self, grant: str, host: str, timeout: float | None) -> None:
        super().__init__(host, timeout=timeout)
        self._grant = grant

    def connect(self) -> None:
        opened = current().open(self._grant)
        if not isinstance(opened, socket.socket):
            raise Unavailable(f"the grant {self._grant!r} is not a connection")
        opened.settimeout(self.timeout)
        self.sock = opened


def http(name: str, *, timeout: float | None = 30.0) -> HTTPConnection:
    """An http.client.HTTPConnection whose stream is the connect grant `name`; it blocks. `timeout` in seconds."""
    return _Connection(name, _host(name), timeout)


async def fetch(
    name: str,
    path: str,
    *,
    method: str = "GET",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One request over one new connection by the connect grant `name`, without blocking the event loop.

    Raises Denied or Unavailable, ValueError for what would break the request's lines, and http.client's exceptions
    for an answer that is not HTTP.
    """
    lines = {"host": _host(name), "connection": "close"}
    if body or method in ("POST", "PUT", "PATCH"):
        lines["content-length"] = str(len(body))
    lines |= {key.lower(): value for key, value in (headers or {}).items()}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items()) + "\r\n"
    if head.count("\n") != len(lines) + 2 or head.count("\r") != len(lines) + 2 or f"{method}{path}".find(" ") >= 0:
        raise ValueError("a line end or a space where none may be, in the method, the path or a header")
    reader, writer = await aio.streams(name)
    try:
        writer.write(head.encode("latin-1") + body)
        await writer.drain()
        answer = await reader.read(_LIMIT)
        while more := await reader.read(_LIMIT):
            answer += more
            if len(answer) > _LIMIT:
                raise Unavailable(f"{name} answered with more than {_LIMIT} bytes: use sdk.aio.streams for such")
    finally:
        writer.close()
    return _parse(answer, method)


class _Bytes:
    """Just enough of a socket for http.client to read an answer that is already here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> object:
        return io.BytesIO(self._data)


def _parse(answer: bytes, method: str) -> Response:
    response = HTTPResponse(_Bytes(answer), method=method)  # type: ignore[arg-type]
    response.begin()
    headers = {key.lower(): value for key, value in response.getheaders()}
    return Response(response.status, headers, response.read())


def _host(name: str) -> str:
    """What the other service sees as Host: the name of the service that is called."""
    to = next((grant.to for grant in current().grants() if grant.name == name), None)
    return to or name
