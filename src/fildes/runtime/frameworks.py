"""Small programs of ours on the framework that a program uses, for `warm`: the library's code, not the tenant's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def programs() -> Callable[[], Any] | None:
    """What makes one for the framework that is imported: FastAPI or Starlette; None where it is neither."""
    if "fastapi" in sys.modules:
        return _of_fastapi
    return _of_starlette if "starlette.routing" in sys.modules else None


def wsgi_programs() -> Callable[[], Any] | None:
    """The same for WSGI: Flask. (What Django is, its settings say, and they are the program's.)"""
    return _of_flask if "flask.app" in sys.modules else None


def _of_flask() -> Any:
    flask = importlib.import_module("flask")
    app = flask.Flask(__name__, static_folder=None)

    def item(number: int) -> Any:
        return flask.jsonify(number=number, x=flask.request.args.get("x"))

    app.add_url_rule("/items/<int:number>", view_func=item)
    return app


def _of_fastapi() -> Any:
    fastapi = importlib.import_module("fastapi")
    app = fastapi.FastAPI(openapi_url=None)

    async def root() -> dict[str, str]:
        return {"warm": "yes"}

    async def item(number: int, q: str = "") -> dict[str, object]:
        return {"number": number, "q": [q]}

    async def posted(body: dict) -> dict:  # type: ignore[type-arg]
        return body

    class Model(importlib.import_module("pydantic").BaseModel):  # type: ignore[misc]
        number: int
        name: str

    async def model() -> Model:
        return Model(number=1, name="warm")

    # Annotations are strings here, and these names would be looked up in this module.
    root.__annotations__ = {}
    item.__annotations__ = {"number": int, "q": str}
    posted.__annotations__ = {"body": dict}
    Model.__annotations__ = {"number": int, "name": str}
    Model.model_rebuild(force=True)
    model.__annotations__ = {"return": Model}
    app.get("/")(root)
    app.get("/model")(model)
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
