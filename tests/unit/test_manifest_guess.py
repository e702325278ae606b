"""A folder without a manifest: the sentence has the manifest to write, and that manifest is a good one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.manifest import ManifestError, infer, read
from fildes.manifest.guess import guess

FLASK = b"from flask import Flask\n\napp = Flask(__name__)\n"
PROGRAMS = {
    "flask": ({"app.py": FLASK, "requirements.txt": b"flask"}, "wsgi", "app:app", "app.py:3 makes a Flask application"),
    "fastapi": (
        {"main.py": b"import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI(title='x')\n"},
        "asgi",
        "main:api",
        "main.py:2",
    ),
    "starlette": ({"server.py": b"app = Starlette(routes=[\n])\n"}, "asgi", "server:app", "a Starlette"),
    "package": (
        {"shop/__init__.py": b"", "shop/web.py": b"x = 1\nsite = flask.Flask('x')\n", "setup.py": b""},
        "wsgi",
        "shop.web:site",
        "shop/web.py:2",
    ),
    "src": ({"pyproject.toml": b"", "src/shop/__init__.py": FLASK}, "wsgi", "shop:app", "src/shop/__init__.py:3"),
    "django": (
        {
            "manage.py": b"import os\n",
            "mysite/settings.py": b"",
            "mysite/asgi.py": b"application = get_asgi_application()\n",
            "mysite/wsgi.py": b"application = get_wsgi_application()\n",
        },
        "wsgi",
        "mysite.wsgi:application",
        "a Django application",
    ),
    "falcon": ({"app.py": b"app = falcon.asgi.App()\n"}, "asgi", "app:app", "a Falcon"),
    "dash": ({"app.py": b"app = dash.Dash(__name__)\n"}, "wsgi", "app:app.server", "a Dash"),
    "bottle": (
        {"app.py": b"app = bottle.Bottle()\n", "tests/app.py": b"app = FastAPI()\n"},
        "wsgi",
        "app:app",
        "a Bottle",
    ),
    "function": (
        {"hello.py": b"def handle(request):\n    return 1\n"},
        "function",
        "hello:handle",
        "looks like a function",
    ),
    "service": ({"tick.py": b"async def main(caps):\n    pass\n"}, "service", "tick:main", "looks like a service"),
    "called": ({"wsgi.py": b"from shop import create_app\napp = create_app()\n"}, "wsgi", "wsgi:app", "a Flask"),
    "unknown": ({"thing.py": b"print(1)\n"}, "asgi", "thing:app", "this is a program"),
}


def said(files: dict[str, bytes], name: str | None = None, folder: str = "My Shop") -> str:
    with pytest.raises(ManifestError) as caught:
        infer(files, name, files.get, folder)
    return str(caught.value)


@pytest.mark.parametrize("case", PROGRAMS)
def test_the_manifest_to_write(case: str) -> None:
    files, runtime, entry, words = PROGRAMS[case]
    text = said(files)
    assert text.startswith("fildes.toml: is missing, and ") and words in text and "publish again:\n\n" in text
    manifest = read("\n".join(line.strip() for line in text.splitlines() if line.startswith("    ")).encode())
    assert (manifest.name, manifest.runtime, manifest.entry) == ("my-shop", runtime, entry)
    assert said(files, name="other").count('"other"') == 1


def test_a_factory_is_an_entry() -> None:
    text = said({"shop/__init__.py": b"from flask import Flask\n\ndef create_app():\n    pass\n", "run.py": b""})
    assert 'entry = "shop:create_app()"' in text


def test_what_is_no_program() -> None:
    assert "fildes publish DIR --name my-shop" in said({"index.html": b""})
    assert "cannot be told what this folder is" in said({"notes.txt": b""})
    assert infer({"index.html": b"", "x/app.py": FLASK}, "docs", lambda _: FLASK).runtime == "static"


@given(st.dictionaries(st.sampled_from(["app.py", "a/b.py", "src/x/__init__.py", "é.py"]), st.binary(max_size=300)))
def test_any_bytes(files: dict[str, bytes]) -> None:
    found = guess(files, files.get)
    assert found is None or found.where.partition(":")[0] in files


def test_large_and_many_files_are_not_read() -> None:
    asked: list[str] = []

    def look(name: str) -> bytes:
        asked.append(name)
        return b"#" * (1 << 20) + FLASK

    assert guess([f"m{n}.py" for n in range(1000)], look) is None and len(asked) <= 60


def test_what_a_framework_needs_is_in_the_lines() -> None:
    flask = said({"app.py": FLASK})
    assert "[grants.clock]" in flask and "[grants.random]" in flask and "sqlite" not in flask
    django = said({"shop/wsgi.py": b"application = get_wsgi_application()\n", "manage.py": b""})
    top, _, rest = django.partition("[grants.clock]")
    assert 'on_release = ["python manage.py migrate"]' in top and 'path = "/app/db.sqlite3"' in rest
    for text in (flask, django):
        written = text.partition("publish again:\n\n")[2]
        assert read("\n".join(line.strip() for line in written.splitlines()).encode()).runtime == "wsgi"
