"""The function runtime over real sockets: blocking and async functions alike."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module", params=["functions:handle", "functions:handle_async"])
def served(request: pytest.FixtureRequest, stage_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = stage_of(tmp_path_factory.mktemp("function"), runtime="function", entry=request.param)
    assert made.loaded == "loaded 1", made.log()
    made.start()
    yield made
    made.close()


def test_what_may_be_returned(served: Any) -> None:
    status, body, headers = served.ask("/")
    assert (status, body.decode(), headers["content-type"]) == (200, "grüß dich", "text/plain; charset=utf-8")
    assert served.ask("/bytes")[:2] == (200, b"\0\1")
    status, body, headers = served.ask("/json?x=1&x=&y=2", **{"User-Agent": "me"})
    assert json.loads(body) == {"method": "GET", "query": ["1", ""], "agent": "me"}
    assert headers["content-type"] == "application/json"
    assert served.ask("/rows")[:2] == (200, b"0;1;2;")
    assert served.ask("/none")[:2] == (204, b"")
    status, body, headers = served.ask("/cookies", Cookie="a=1; b=2")
    assert (status, json.loads(body), headers["x-a"]) == (201, {"a": "1", "b": "2"}, "1")
    assert headers["set-cookie"] == "seen=yes; HttpOnly; Max-Age=60; Path=/; SameSite=Lax"
    assert served.ask("/nothing")[0] == 404
    assert served.ask("/text", "HEAD")[:2] == (200, b"")


def test_bodies(served: Any) -> None:
    assert json.loads(served.ask("/echo", "POST", b'{"a": [1]}')[1]) == {"a": [1]}
    large = json.dumps(["x" * 1000] * 300).encode()
    assert served.ask("/echo", "POST", large)[1] == large
    client = served.client()
    client.request(
        "POST", "/echo", iter([b"[1", b",2]"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert client.getresponse().read() == b"[1, 2]"
    client.close()
    body = served.ask("/form", "POST", b"a=1&a=%C3%BC&b=", **FORM)[1]
    assert json.loads(body) == {"fields": [["a", "1"], ["a", "ü"], ["b", ""]], "files": {}}
    parts = (
        b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\nvalue\r\n'
        b'--X\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\nContent-Type: a/b\r\n\r\n\0\xff\r\n'
        b"--X--\r\n"
    )
    body = served.ask("/form", "POST", parts, **{"Content-Type": "multipart/form-data; boundary=X"})[1]
    assert json.loads(body) == {"fields": [["a", "value"]], "files": {"f": ["x.bin", "a/b", 2]}}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/echo", b"[1", ""),
        ("/echo", b"\xff", ""),
        ("/echo", b"[" * 100_000, ""),
        ("/form", b"a=1", ""),
        ("/form", b"a=\xff", FORM["Content-Type"]),
        ("/form", b"&".join([b"a=1"] * 2000), FORM["Content-Type"]),
        ("/form", b"nothing of the kind", "multipart/form-data"),
        ("/form", b"--X\r\n\r\nno name\r\n--X--\r\n", "multipart/form-data; boundary=X"),
    ],
)
def test_what_the_client_gets_wrong_is_a_400(served: Any, path: str, body: bytes, kind: str) -> None:
    status, answer, _ = served.ask(path, "POST", body, **({"Content-Type": kind} if kind else {}))
    assert status == 400, (status, answer)
    assert answer.startswith(b"400 Bad Request\n")


@pytest.mark.parametrize("path", ["/fails", "/set", "/badheader"])
def test_what_the_function_gets_wrong_is_a_500_with_a_log(served: Any, path: str) -> None:
    before = served.log().count("Traceback")
    assert served.ask(path)[0] == 500
    served.until(lambda: served.log().count("Traceback") > before)
    assert served.ask("/")[0] == 200


def test_what_breaks_in_the_middle_is_cut_off(served: Any) -> None:
    client = served.client()
    client.request("GET", "/breaks")
    with pytest.raises(http.client.IncompleteRead):
        client.getresponse().read()
    client.close()


def test_prefixes_and_objects(make_stage: Any) -> None:
    stage = make_stage(runtime="function", entry="functions:an_object", hosts=["127.0.0.1/shop"])
    stage.start()
    assert json.loads(stage.ask("/shop/a%20b")[1]) == {"prefix": "/shop", "path": "/a b"}


def test_what_can_not_be_called_is_said_when_it_is_loaded(make_stage: Any) -> None:
    stage = make_stage(runtime="function", entry="functions:no_argument")
    assert not stage.loaded
    stage.zygote.wait(10)
    assert "def handle(request)" in stage.log()
