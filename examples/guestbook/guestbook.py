"""A guestbook in plain ASGI. What guests write is kept by the instance, and is gone when it goes to sleep."""

import os
from collections import deque
from datetime import UTC, datetime
from html import escape
from urllib.parse import parse_qs

ENTRIES = deque(maxlen=100)
LONGEST = 10_000  # bytes of a form

PAGE = """<!doctype html>
<meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1>
<form method="post">
  <input name="name" placeholder="Your name" maxlength="40" required>
  <input name="text" placeholder="A few words" maxlength="400" required>
  <button>Sign</button>
</form>
<ul>{entries}</ul>
"""
ENTRY = "<li><b>{name}</b> <small>{when:%d %B %Y, %H:%M}</small><br>{text}</li>"


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["method"] == "POST":
        await sign(scope, receive, send)
    elif scope["method"] in ("GET", "HEAD"):
        entries = "".join(ENTRY.format(**entry) for entry in reversed(ENTRIES))
        page = PAGE.format(title=escape(os.environ.get("TITLE", "Guestbook")), entries=entries)
        await answer(send, 200, page)
    else:
        await answer(send, 405, "Only GET and POST are understood here.", [(b"allow", b"GET, HEAD, POST")])


async def sign(scope, receive, send):
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LONGEST:
            await answer(send, 413, "That is more than a few words.")
            return
    form = parse_qs(body.decode(errors="replace"))
    name, text = (form.get(field, [""])[0].strip() for field in ("name", "text"))
    if not name or not text:
        await answer(send, 422, "Both a name and a few words are needed.")
        return
    # The time is a capability: without [grants.clock] this line would raise, and say so.
    ENTRIES.append({"name": escape(name[:40]), "text": escape(text[:400]), "when": datetime.now(UTC)})
    await answer(send, 303, "", [(b"location", b".")])


async def answer(send, status, text, headers=()):
    body = text.encode()
    fixed = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})
