"""Run the framework that a program uses in the zygote, with a program of ours: the library's code, not the tenant's.

What a framework executes for a request, the interpreter specialises in its first runs, writing into code that all
instances could share. The tenant's own code is not run: a request to it may have effects. Nor does its event loop turn:
what it has scheduled there is to begin in an instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any, Final

LIMIT: Final = 5.0  # s
ROUNDS: Final = 16  # the interpreter specialises after some 8 runs, and tries again where it failed
_HEADERS: Final = ((b"host", b"warm.localhost"), (b"user-agent", b"warm"), (b"accept", b"*/*"))
_REQUESTS: Final = (
    ("GET", "/", b"", b""),
    ("GET", "/items/7", b"q=text", b""),
    ("POST", "/", b"", b'{"key": [1, "value"]}'),
)


def warm() -> None:
    """For what is imported of FastAPI and Starlette. It is a favour: what goes wrong in it is of no consequence."""
    with contextlib.suppress(Exception):
        if "fastapi" in sys.modules:
            _drive(_of_fastapi)
        elif "starlette.routing" in sys.modules:
            _drive(_of_starlette)


def _of_fastapi() -> Any:
    fastapi = importlib.import_module("fastapi")
    app = fastapi.FastAPI(openapi_url=None)

    async def root() -> dict[str, str]:
        return {"warm": "yes"}

    async def item(number: int, q: str = "") -> dict[str, object]:
        return {"number": number, "q": [q]}

    async def posted(body: dict) -> dict:  # type: ignore[type-arg]
        return body

    # Annotations are strings here, and these names would be looked up in this module.
    root.__annotations__ = {}
    item.__annotations__ = {"number": int, "q": str}
    posted.__annotations__ = {"body": dict}
    app.get("/")(root)
    app.get("/items/{number}")(item)
    app.post("/")(posted)
    return app


def _of_starlette() -> Any:
    starlette, routing, responses = (
        importlib.import_module(f"starlette.{name}") for name in ("applications", "routing", "responses")
    )

    async def answer(request: Any) -> Any:
        if request.method == "POST":
            return responses.JSONResponse(await request.json())
        return responses.JSONResponse({"path": dict(request.path_params), "query": dict(request.query_params)})

    return starlette.Starlette(
        routes=[
            routing.Route("/", answer, methods=["GET", "POST"]),
            routing.Route("/items/{number:int}", answer),
        ]
    )


def _drive(make: Callable[[], Any]) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(_lives(make), LIMIT))
    finally:
        loop.close()


async def _lives(make: Callable[[], Any]) -> None:
    """What happens once in an instance's life has to happen here as often as a request."""
    for _ in range(ROUNDS):
        app = make()
        lifespan = _Lifespan()
        await app(
            {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}},
            lifespan.receive,
            _send,
        )
        for method, path, query, body in _REQUESTS:
            scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "server": ("warm.localhost", 80),
                "client": ("127.0.0.1", 1),
                "scheme": "http",
                "method": method,
                "root_path": "",
                "path": path,
                "raw_path": path.encode(),
                "query_string": query,
                "headers": [*_HEADERS, *([(b"content-type", b"application/json")] if body else [])],
                "state": {},
            }
            await app(scope, _Receive(body), _send)


class _Lifespan:
    def __init__(self) -> None:
        self._words = ["lifespan.shutdown", "lifespan.startup"]

    async def receive(self) -> dict[str, Any]:
        return {"type": self._words.pop()}


class _Receive:
    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}


async def _send(message: dict[str, Any]) -> None:
    """To nobody."""
