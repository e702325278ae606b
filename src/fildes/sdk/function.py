"""What a function is given, and what it may return (runtime = "function").

from fildes.sdk import Request, Response

def handle(request: Request):            # or async def
    if request.path == "/":
        return "text"                    # str: text/plain. bytes: application/octet-stream. None: 204
    if request.path == "/data":
        return {"number": [1, 2]}        # dict, list, int, float, bool: JSON
    if request.path == "/page":
        return Response("<p>Hello", type="text/html")
    if request.path == "/rows":
        return (f"{n}\\n" for n in range(1000))    # an iterator of str or bytes: sent piece by piece
    return Response("nothing here", 404)
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import parse_qsl

MOST_FIELDS = 1000  # of a query or a form


class BadRequest(ValueError):
    """What the client sent is not what the function reads it as. Unless it is caught, it is answered with 400."""


class Headers(Mapping[str, str]):
    """Header lines; names in any case. A repeated header is one value, joined with commas."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            small = name.lower()
            before = self._values.get(small)
            between = "; " if small == "cookie" else ", "
            self._values[small] = value if before is None else f"{before}{between}{value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


class Values(Mapping[str, str]):
    """The fields of a query or a form, by name. Of a repeated one this has the last; `all` has every one."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = list(pairs)
        self._last = dict(self.pairs)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key == name]

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def __repr__(self) -> str:
        return f"Values({self.pairs!r})"


class File(NamedTuple):
    """An uploaded file."""

    name: str  # as the client calls it: never a path to write to
    type: str
    data: bytes


class Request:
    """One request, with its body whole: `[limits] body` says how large that may be.

    method   "GET", …, as sent
    path     percent-decoded, and below the prefix where the service has one (hosts = ["example.org/prefix"])
    prefix   that prefix, "" without one
    scheme   "https" or "http", as the client speaks it
    client   the client's address; "service:NAME" for another service
    """

    def __init__(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        prefix: str = "",
        scheme: str = "http",
        client: str = "",
    ) -> None:
        self.method = method
        self.path = path
        self.prefix = prefix
        self.scheme = scheme
        self.client = client
        self.body = body
        self.query_string = query
        self._headers = headers

    @cached_property
    def headers(self) -> Headers:
        return Headers(self._headers)

    @cached_property
    def query(self) -> Values:
        """What follows the question mark, by name."""
        return Values(_pairs(self.query_string, "the query"))

    @cached_property
    def cookies(self) -> dict[str, str]:
        try:
            return {name: morsel.value for name, morsel in SimpleCookie(self.headers.get("cookie", "")).items()}
        except CookieError:
            return {}

    def text(self) -> str:
        """The body as UTF-8. Raises BadRequest."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise BadRequest("the body is not UTF-8 text") from error

    def json(self) -> Any:
        """The body as JSON. Raises BadRequest."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from error

    def form(self) -> Values:
        """The fields of a submitted form, without its files. Raises BadRequest."""
        return self._form[0]

    def files(self) -> dict[str, File]:
        """The files of a submitted form, by the name of their field. Raises BadRequest."""
        return self._form[1]

    @cached_property
    def _form(self) -> tuple[Values, dict[str, File]]:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/x-www-form-urlencoded":
            return Values(_pairs(self.text(), "the form")), {}
        if kind == "multipart/form-data":
            return _multipart(self.headers["content-type"], self.body)
        raise BadRequest("the body is not a form")

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.prefix}{self.path}>"


Body = str | bytes | dict[str, Any] | list[Any] | int | float | bool | None | Iterable[Any] | AsyncIterable[Any]


class Response:
    """A response with a status, headers, a content type. `body` is whatever a function may return itself.

    `type` is the Content-Type; without one it goes by the body. `headers` is a mapping, or pairs where one repeats.
    """

    def __init__(
        self,
        body: Body = b"",
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        type: str | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self.type = type

    @classmethod
    def redirect(cls, location: str, status: int = 303) -> Response:
        """Elsewhere; 303 after a form was taken in."""
        return cls(b"", status, [("Location", location)])

    def set_cookie(self, name: str, value: str, *, max_age: int | None = None, **attributes: Any) -> Response:
        """A cookie that scripts don't see and other sites don't send, unless `attributes` (http.cookies) say otherwise.

        `max_age` in seconds; 0 forgets it. Returns itself.
        """
        cookie = SimpleCookie({name: value})
        settings: dict[str, Any] = {"path": "/", "httponly": True, "samesite": "Lax"} | attributes
        if max_age is not None:
            settings["max-age"] = max_age
        for key, setting in settings.items():
            cookie[name][key.replace("_", "-")] = setting
        self.headers.append(("Set-Cookie", cookie[name].OutputString()))
        return self

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class Ready(NamedTuple):
    """A response as a loop sends it: `body` is bytes, or pieces (`piece`) that come from an iterator."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Iterable[Any] | AsyncIterable[Any]


def ready(returned: Any) -> Ready:
    """What a function returned, made ready. Raises TypeError, with a sentence, for what can't be sent."""
    response = returned if isinstance(returned, Response) else Response(returned, 204 if returned is None else 200)
    body, kind = _encoded(response.body)
    headers = response.headers
    if not any(name.lower() == "content-type" for name, _ in headers) and response.status not in (204, 304):
        headers = [("Content-Type", response.type or kind), *headers]
    if isinstance(body, bytes) and response.status not in (204, 304):
        headers = [*headers, ("Content-Length", str(len(body)))]
    return Ready(response.status, headers, body)


def piece(data: Any) -> bytes:
    """One piece of a body that comes piece by piece."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"the function's iterator gave a {type(data).__name__}; a piece is str or bytes")


def _encoded(body: Any) -> tuple[bytes | Iterable[Any] | AsyncIterable[Any], str]:
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    if body is None:
        return b"", "text/plain; charset=utf-8"
    if isinstance(body, dict | list | int | float):
        return json.dumps(body, ensure_ascii=False).encode(), "application/json"
    if _in_pieces(body):
        return body, "text/plain; charset=utf-8"
    raise TypeError(
        f"the function returned a {type(body).__name__}; it may return str, bytes, dict, list, None, an iterator of "
        "str or bytes, or a fildes.sdk.Response"
    )


def _in_pieces(body: Any) -> TypeGuard[Iterable[Any] | AsyncIterable[Any]]:
    """Iterators are; a tuple or a set is more likely to be a mistake."""
    return hasattr(body, "__next__") or hasattr(body, "__aiter__")


def _pairs(text: str, what: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise BadRequest(f"{what} has more than {MOST_FIELDS} fields") from error


def _multipart(kind: str, body: bytes) -> tuple[Values, dict[str, File]]:
    """By the standard library's reader of mail, which knows multipart (RFC 7578, RFC 2046 5.1)."""
    from email.parser import BytesParser
    from email.policy import HTTP

    message = BytesParser(policy=HTTP).parsebytes(b"content-type: " + kind.encode("latin-1") + b"\r\n\r\n" + body)
    if not message.is_multipart():
        raise BadRequest("the form's parts can't be told apart")
    fields: list[tuple[str, str]] = []
    files: dict[str, File] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            raise BadRequest("a part of the form has no name")
        data = part.get_payload(decode=True)
        data = data if isinstance(data, bytes) else b""
        if len(fields) + len(files) >= MOST_FIELDS:
            raise BadRequest(f"the form has more than {MOST_FIELDS} fields")
        filename = part.get_filename()
        if filename is not None:
            files[name] = File(filename, part.get_content_type(), data)
        else:
            fields.append((name, data.decode("utf-8", "replace")))
    return Values(fields), files
