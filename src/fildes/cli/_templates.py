"""What `fildes new` writes: one small project a runtime, whose manifest says what each of its lines is for.

@NAME@ stands for the service's name. Every one of them is published and asked by a test.
"""

from __future__ import annotations

from typing import Final

_HEAD: Final = """\
# What this service is, and what it may have. All that can be said here: docs/manifest.md

name = "@NAME@"                     # the service's name; `fildes ps`, `fildes logs @NAME@`, …
"""
_HOSTS: Final = """\
hosts = ["@NAME@.localhost"]        # where it answers; "example.org" or "example.org/shop" too
"""
_GRANTS: Final = """
# [env]                           # variables that the program finds in its environment
# TITLE = "Hello"

# A program holds what it was granted, and nothing else: no clock, no network, no files outside of this folder.
[grants.clock]                    # the time of day
[grants.random]                   # random numbers: sessions and tokens need them

# [grants.api]                    # a connection to another service, or to a host outside
# kind = "connect"
# to = "api.example.org:443"

# [grants.db]                     # a database that lasts
# kind = "sqlite"
"""
_LIMITS: Final = """
[limits]                          # of one instance; more is refused, not taken from others
memory = "128MiB"
cpu = 0.5                         # cores
"""
_READ: Final = """\
# @NAME@

    fildes publish .        # again after each change: the old release serves until the new one does
    fildes open @NAME@
    fildes logs @NAME@

`fildes.toml` says what it is and what it may have.
"""
_IGNORE: Final = """\
# What is not published, beside caches and what .gitignore leaves out; "!dist/" would take back what git leaves out.
README.md
tests/
"""

_ASGI: Final = '''\
"""@NAME@: an ASGI application. FastAPI, Starlette, Litestar, Quart and Django are such applications too."""


async def app(scope, receive, send):
    if scope["type"] == "lifespan":  # once, before the first request and after the last one
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] != "http":
        return
    body = f"Hello from @NAME@: {scope['method']} {scope['path']}\\n".encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})
'''

_WSGI: Final = '''\
"""@NAME@: a WSGI application. Flask's `app` and Django's `application` are such applications too."""


def app(environ, start_response):
    body = f"Hello from @NAME@: {environ['REQUEST_METHOD']} {environ['PATH_INFO']}\\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
'''

_FUNCTION: Final = '''\
"""@NAME@: one function, from a request to a response."""


def handle(request):
    return f"Hello from @NAME@: {request.method} {request.path}\\n"
'''

_SERVICE: Final = '''\
"""@NAME@: a program that runs for as long as it likes, without HTTP. What it prints is in `fildes logs @NAME@`."""

import time


def main(caps):
    count = 0
    while True:
        count += 1
        print(f"@NAME@ is here: line {count}, at {time.ctime()}", flush=True)
        if caps.wait(10):  # seconds, or until it is to stop
            return
'''

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>@NAME@</title>
<link rel="stylesheet" href="style.css">
<h1>@NAME@</h1>
<p>Hello from @NAME@. This page is <code>index.html</code>.
</html>
"""

_MISSING: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Not here</title>
<link rel="stylesheet" href="/style.css">
<h1>Not here</h1>
<p><a href="/">To the beginning</a>
</html>
"""

_REQUIREMENTS: Final = """\
# The packages that the program needs, one a line, for example:
# flask>=3
"""


def _program(runtime: str, entry: str, meaning: str, code: str, hosts: str = _HOSTS) -> dict[str, str]:
    manifest = f'{_HEAD}runtime = "{runtime}"'.ljust(len(_HEAD) + 34) + f"# {meaning}\n"
    manifest += f'entry = "{entry}"'.ljust(34) + "# module:object, what to run\n"
    return {
        "fildes.toml": manifest + hosts + _GRANTS + _LIMITS,
        "main.py": code,
        "requirements.txt": _REQUIREMENTS,
        ".fildesignore": _IGNORE,
        "README.md": _READ,
    }


TEMPLATES: Final = {
    "asgi": _program("asgi", "main:app", "an asynchronous web application", _ASGI),
    "wsgi": _program("wsgi", "main:app", "a web application in threads", _WSGI),
    "function": _program("function", "main:handle", "one function: request → response", _FUNCTION),
    "service": _program("service", "main:main", "no HTTP: it runs on its own", _SERVICE, hosts=""),
    "static": {
        "fildes.toml": _HEAD
        + 'runtime = "static"'.ljust(34)
        + "# files as they are: no program runs\n"
        + _HOSTS
        + "\n# 404.html is for what is not there. Headers: a file _headers; redirects: a file _redirects.\n",
        "index.html": _PAGE,
        "404.html": _MISSING,
        "style.css": "body { font: 1.1rem/1.5 sans-serif; margin: 3rem auto; max-width: 40rem; padding: 0 1rem }\n",
        ".fildesignore": _IGNORE,
        "README.md": _READ,
    },
}


def files(name: str, runtime: str) -> dict[str, str]:
    """Path → content of a new project."""
    made = {}
    for path, text in TEMPLATES[runtime].items():
        lines = [_aligned(line, name) if path == "fildes.toml" else line for line in text.split("\n")]
        made[path] = "\n".join(lines).replace("@NAME@", name)
    return made


def _aligned(line: str, name: str) -> str:
    """The comment behind a line of the manifest where it was, whatever the name's length."""
    code, sign, comment = line.partition("  # ")
    if not sign or "@NAME@" not in code or line.startswith("#"):
        return line
    return f"{code.rstrip().replace('@NAME@', name):<32}  # {comment.strip()}"
