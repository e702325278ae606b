"""The function runtime: one callable, request → response, on the loop that suits it.

An `async def` is served by the loop of the ASGI runtime, anything else in the threads of the WSGI runtime: a function
that blocks may. What it is given and may return: `fildes.sdk.function`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from fildes.runtime import wsgi
from fildes.runtime.kit import Kit
from fildes.runtime.program import CannotLoad, find
from fildes.runtime.wsgi_loop import Program
from fildes.sdk.function import BadRequest, Request, Response, piece, ready
from fildes.wire.http import PHRASES

Function = Callable[[Request], Any]


class Loaded:
    """What the loop that suits the function made of it."""

    def __init__(self, runtime: ModuleType, program: Any) -> None:
        self.runtime, self.program = runtime, program
        # As zygote/main.py looks for them, where the loop holds descriptors.
        for name in ("holdings", "renew", "renewed"):
            if hasattr(program, name):
                setattr(self, name, getattr(program, name))


def load(settings: dict[str, Any]) -> Loaded:
    """Import the function. Raises CannotLoad, or what its module raises."""
    # What a request may need and only then imports.
    for name in ("email.parser", "email.policy", "json", "urllib.parse"):
        importlib.import_module(name)
    function = find(settings["entry"], settings.get("paths") or ())
    _check(function, settings["entry"])
    if is_async(function):
        asgi = importlib.import_module("fildes.runtime.asgi")
        return Loaded(asgi, asgi.load(settings, as_asgi))
    wsgi.prepare()
    return Loaded(wsgi, wsgi.settle(as_wsgi(function), settings))


def practise(loaded: Loaded) -> list[Callable[[], None]]:
    """As the loop does, if it does."""
    lives: list[Callable[[], None]] = []
    if hasattr(loaded.runtime, "practise"):
        lives += loaded.runtime.practise(loaded.program)
    return lives


def serve(loaded: Loaded, kit: Kit, lock: Callable[[], object]) -> int:
    """Answer until the end. The exit status."""
    status: int = loaded.runtime.serve(loaded.program, kit, lock)
    return status


def is_async(function: Any) -> bool:
    """Also for objects that are called, and for generators."""
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def _check(function: Any, entry: str) -> None:
    try:
        inspect.signature(function).bind(object())
    except TypeError as error:
        raise CannotLoad(
            f'entry = "{entry}": it is called with one argument, the request: def handle(request)'
        ) from error
    except ValueError:  # of some callables there is none
        return


def as_wsgi(function: Function) -> Program:
    def program(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            answer = ready(function(_of_environ(environ)))
        except BadRequest as bad:
            answer = _bad(bad)
        if hasattr(answer.body, "__aiter__"):
            raise TypeError("an async iterator can only be returned by an async function")
        start_response(f"{answer.status} {PHRASES.get(answer.status, '')}", answer.headers)
        return [answer.body] if isinstance(answer.body, bytes) else _Pieces(answer.body)

    return program


def as_asgi(function: Function) -> Callable[..., Any]:
    async def program(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise TypeError(f"a function has no {scope['type']}")
        pieces = []
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        try:
            returned = function(_of_scope(scope, b"".join(pieces)))
            answer = ready(await returned if inspect.isawaitable(returned) else returned)
        except BadRequest as bad:
            answer = _bad(bad)
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = answer.body
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": body})
            return
        try:
            if hasattr(body, "__aiter__"):
                async for data in body:
                    await send({"type": "http.response.body", "body": piece(data), "more_body": True})
            else:
                for data in body:
                    await send({"type": "http.response.body", "body": piece(data), "more_body": True})
        finally:
            if hasattr(body, "aclose"):
                await body.aclose()
            elif hasattr(body, "close"):
                body.close()
        await send({"type": "http.response.body", "body": b""})

    return program


class _Pieces:
    def __init__(self, body: Any) -> None:
        self._body = body
        if hasattr(body, "close"):
            self.close = body.close

    def __iter__(self) -> Iterator[bytes]:
        return map(piece, self._body)


def _bad(bad: BadRequest) -> Any:
    return ready(Response(f"400 Bad Request\n{bad}\n", 400))


def _utf8(text: str) -> str:
    """PEP 3333's "bytes as Latin-1" as what they are."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "replace")


def _of_environ(environ: dict[str, Any]) -> Request:
    return Request(
        environ["REQUEST_METHOD"],
        _utf8(environ["PATH_INFO"]),
        query=environ["QUERY_STRING"],
        headers=_Lines(environ),
        body=environ["wsgi.input"].read(),
        prefix=_utf8(environ["SCRIPT_NAME"]),
        scheme=environ["wsgi.url_scheme"],
        client=environ["REMOTE_ADDR"],
    )


class _Lines:
    """The header lines of an environ, looked at when they are asked for."""

    __slots__ = ("_environ",)

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for key, value in self._environ.items():
            if key.startswith("HTTP_"):
                yield key[5:].replace("_", "-"), value
            elif key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                yield key.replace("_", "-"), value


def _of_scope(scope: dict[str, Any], body: bytes) -> Request:
    return Request(
        scope["method"],
        scope["path"].removeprefix(scope["root_path"]),
        query=scope["query_string"].decode("latin-1"),
        headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        body=body,
        prefix=scope["root_path"],
        scheme=scope["scheme"],
        client=scope["client"][0],
    )
