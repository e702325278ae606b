"""Small programs for tests: a folder that answers with what its `act(path)` returns."""

from __future__ import annotations

import textwrap
from pathlib import Path

_PRELUDE = """\
async def answer(send, text, status=200):
    body = text if isinstance(text, bytes) else str(text).encode()
    head = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def app(scope, receive, send):
    if scope["type"] == "http":
        await answer(send, await act(scope["path"]))


async def act(path):
    return "ok"


"""


def write_program(above: Path, name: str, source: str = "", manifest: str = "") -> Path:
    """The folder `above`/`name`: an ASGI program on NAME.localhost. `source` may define `async def act(path)` anew;
    `manifest` goes behind the first lines of fildes.toml. Written over if it is there."""
    folder = above / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(_PRELUDE + textwrap.dedent(source))
    lines = f'name = "{name}"\nruntime = "asgi"\nentry = "main:app"\nhosts = ["{name}.localhost"]\n'
    (folder / "fildes.toml").write_text(lines + textwrap.dedent(manifest))
    return folder
