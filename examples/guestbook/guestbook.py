"""A guestbook in plain ASGI. What guests write is kept in a database, by Python's own sqlite3."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from html import escape
from urllib.parse import parse_qs

DATABASE = os.environ.get("DATABASE", "/data/db.sqlite3")  # where [grants.db] puts it
SHOWN = 100  # the latest entries
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
        entries = "".join(ENTRY.format(**entry) for entry in written())
        page = PAGE.format(title=escape(os.environ.get("TITLE", "Guestbook")), entries=entries)
        await answer(send, 200, page)
    else:
        await answer(send, 405, "Only GET and POST are understood here.", [(b"allow", b"GET, HEAD, POST")])


def connect():
    """A connection for one request: to open one costs next to nothing."""
    db = sqlite3.connect(DATABASE)
    db.execute("CREATE TABLE IF NOT EXISTS entry (name TEXT NOT NULL, text TEXT NOT NULL, seconds REAL NOT NULL)")
    return db


def written():
    """The latest entries, newest first, fit for a page."""
    with closing(connect()) as db:
        rows = db.execute("SELECT name, text, seconds FROM entry ORDER BY rowid DESC LIMIT ?", (SHOWN,))
        return [
            {"name": escape(name), "text": escape(text), "when": datetime.fromtimestamp(seconds, UTC)}
            for name, text, seconds in rows
        ]


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
    now = datetime.now(UTC).timestamp()
    with closing(connect()) as db, db:
        db.execute("INSERT INTO entry VALUES (?, ?, ?)", (name[:40], text[:400], now))
    await answer(send, 303, "", [(b"location", b".")])


async def answer(send, status, text, headers=()):
    body = text.encode()
    fixed = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})
