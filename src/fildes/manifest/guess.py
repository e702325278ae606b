"""Which well-known sort of program a folder holds, told from its sources as text: nothing is run or imported. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

MAX_FILES: Final = 60
MAX_BYTES: Final = 128 << 10  # of one file that is looked at

# What makes the application: "app = Flask(__name__)", "app: FastAPI = fastapi.FastAPI(".
_MADE: Final = re.compile(
    rb"^([A-Za-z_]\w{0,63})[ \t]*(?::[^=\n]{1,80})?=[ \t]*(?:[A-Za-z_][\w.]{0,63}\.)?(%s)\(" % b"|".join([
        b"Flask", b"FastAPI", b"Starlette", b"Litestar", b"Quart", b"Sanic", b"Bottle", b"Dash", b"APIFlask",
        b"get_wsgi_application", b"get_asgi_application", b"make_wsgi_app", b"create_app", b"make_app",
    ]),
    re.MULTILINE,
)  # fmt: skip
_FALCON: Final = re.compile(rb"^([A-Za-z_]\w{0,63})[ \t]*=[ \t]*falcon\.(asgi\.)?App\(", re.MULTILINE)
_FACTORY: Final = re.compile(rb"^def[ \t]+(create_app|make_app)\(", re.MULTILINE)
_HANDLE: Final = re.compile(rb"^(?:async[ \t]+)?def[ \t]+(handle|handler)\([ \t]*(?:request|req)\b", re.MULTILINE)
_MAIN: Final = re.compile(rb"^(?:async[ \t]+)?def[ \t]+(main)\([ \t]*caps\b", re.MULTILINE)
_WSGI: Final = {"Flask", "Bottle", "APIFlask", "get_wsgi_application", "make_wsgi_app"}
_SHOWN: Final = {"get_wsgi_application": "Django", "get_asgi_application": "Django", "make_wsgi_app": "Pyramid"}
_USUAL: Final = ("wsgi", "asgi", "main", "app", "server", "application", "__init__", "api", "web")
_SKIPPED: Final = frozenset(
    {"tests", "test", "docs", "migrations", "scripts", "node_modules", "setup.py", "conftest.py"}
)


class Guess(NamedTuple):
    """`where` is "app.py:5", `what` a framework's name, `factory` a function that makes the application, or ""."""

    runtime: str
    entry: str
    where: str
    what: str
    factory: str = ""


def guess(names: Iterable[str], read: Callable[[str], bytes | None]) -> Guess | None:
    """The likeliest program among the files `names`; `read` gives a file's bytes."""
    factory: Guess | None = None
    last: Guess | None = None
    for name in _candidates(names):
        content = read(name)
        if content is None or len(content) > MAX_BYTES:
            continue
        found = _in(name, content)
        if found is None:
            continue
        if found.what in ("function", "service"):
            last = last or found
        elif found.factory:
            factory = factory or found
        else:
            return found
    return factory or last


def _candidates(names: Iterable[str]) -> Iterator[str]:
    found = []
    for name in names:
        parts = name.removeprefix("./").split("/")
        inner = parts[1:] if parts[0] == "src" else parts
        if not name.endswith(".py") or len(inner) > 3 or not _SKIPPED.isdisjoint(parts):
            continue
        stem = inner[-1].removesuffix(".py")
        if all(part.isidentifier() for part in (*inner[:-1], stem)):
            order = _USUAL.index(stem) if stem in _USUAL else len(_USUAL)
            found.append((len(inner), order, "/".join(parts)))
    # Django's wsgi.py lies in a folder; it comes before whatever else lies there, not before the top.
    yield from (name for _, _, name in sorted(found)[:MAX_FILES])


def _in(name: str, content: bytes) -> Guess | None:
    module = name.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def at(match: re.Match[bytes]) -> str:
        return f"{name}:{content.count(10, 0, match.start()) + 1}"

    made = _MADE.search(content)
    if made is not None:
        word = made[2].decode()
        what = _SHOWN.get(word, word)
        if word in ("create_app", "make_app"):
            return _of_factory(content, f"{module}:{made[1].decode()}", at(made), "")
        if word == "Dash":  # its WSGI application is an attribute of it
            return Guess("wsgi", f"{module}:{made[1].decode()}.server", at(made), what)
        return Guess("wsgi" if word in _WSGI else "asgi", f"{module}:{made[1].decode()}", at(made), what)
    falcon = _FALCON.search(content)
    if falcon is not None:
        return Guess("asgi" if falcon[2] else "wsgi", f"{module}:{falcon[1].decode()}", at(falcon), "Falcon")
    factory = _FACTORY.search(content)
    if factory is not None:
        return _of_factory(content, f"{module}:app", at(factory), factory[1].decode())
    for pattern, runtime in ((_HANDLE, "function"), (_MAIN, "service")):
        match = pattern.search(content)
        if match is not None:
            return Guess(runtime, f"{module}:{match[1].decode()}", at(match), runtime)
    return None


def _of_factory(content: bytes, entry: str, where: str, factory: str) -> Guess:
    what = next(
        (word for word in (b"FastAPI", b"Starlette", b"Quart", b"Litestar", b"Flask") if word in content), b"Flask"
    )
    return Guess("wsgi" if what == b"Flask" else "asgi", entry, where, what.decode(), factory)
