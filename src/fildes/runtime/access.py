"""The access log (`fildes up --access-log`): a line a request, into the service's own log.

A wrapper around the program, made when it is loaded: without the option there is none, and nothing is paid.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any

from fildes.wire.access import line

_STDERR = 2  # the log's pipe

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def wraps_asgi(program: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def logged(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await program(scope, receive, send)
            return
        began = time.monotonic()
        status = size = 0

        async def noting(message: Message) -> None:
            nonlocal status, size
            match message["type"]:
                case "http.response.start" | "websocket.http.response.start":
                    status = message["status"]
                case "http.response.body":
                    size += len(message.get("body", b""))
                case "websocket.accept":
                    status = 101
                case "websocket.send":
                    size += len(message.get("bytes") or message.get("text") or b"")
            await send(message)

        try:
            await program(scope, receive, noting)
        finally:
            _write(_of_scope(scope, status or 500, size, time.monotonic() - began))

    return logged


def _of_scope(scope: MutableMapping[str, Any], status: int, size: int, seconds: float) -> bytes:
    headers = dict(scope["headers"])
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    method = scope.get("method", "GET").encode()
    request = b"%b %b%b HTTP/%b" % (method, headers.get(b"host", b""), target, scope["http_version"].encode())
    client = str((scope.get("client") or ("-",))[0]).encode()
    return line(client, request, status, size, seconds, headers.get(b"referer", b""), headers.get(b"user-agent", b""))


def wraps_wsgi(program: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def logged(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        began = time.monotonic()
        status = "500"
        size = 0

        def noting(given: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
            nonlocal status
            status = given
            write: Callable[[bytes], Any] = start_response(given, headers, exc_info)

            def counting(data: bytes) -> None:
                nonlocal size
                size += len(data)
                write(data)

            return counting

        body: Iterable[bytes] = ()
        try:
            body = program(environ, noting)
            for piece in body:
                size += len(piece)
                yield piece
        finally:
            if callable(close := getattr(body, "close", None)):
                close()
            _write(_of_environ(environ, int(status[:3]), size, time.monotonic() - began))

    return logged


def _of_environ(environ: dict[str, Any], status: int, size: int, seconds: float) -> bytes:
    query = environ.get("QUERY_STRING")
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "") + (f"?{query}" if query else "")
    text = f"{environ['REQUEST_METHOD']} {environ.get('HTTP_HOST', '')}{path} {environ['SERVER_PROTOCOL']}"
    words = (text, environ.get("HTTP_REFERER", ""), environ.get("HTTP_USER_AGENT", ""))
    request, referer, agent = (word.encode("latin-1", "replace") for word in words)
    return line(str(environ.get("REMOTE_ADDR", "-")).encode(), request, status, size, seconds, referer, agent)


def _write(text: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(_STDERR, text + b"\n")
