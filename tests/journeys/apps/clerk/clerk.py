"""Counts its visitors, and says how its release was prepared."""

import asyncio
import os

READY = "imported"
STATE = {"prepared": ""}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    status = 200
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    elif scope["path"] == "/env":
        STATE["prepared"] = " ".join(f"{name}={os.environ[name]}" for name in ("TITLE", "EMPTY"))
    elif scope["path"] == "/file":
        with open("/run/secrets/watchword", encoding="utf-8") as file:
            STATE["prepared"] = file.read()
    elif scope["path"] == "/sick":
        status = 500
    elif scope["path"] == "/never":
        await asyncio.sleep(3600)
    elif scope["path"] == "/dies":
        os._exit(7)
    elif scope["path"] == "/old":
        status = 302
    body = STATE["prepared"].encode() or READY.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
