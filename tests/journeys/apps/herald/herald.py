"""Tells which release it is, by request, stream and WebSocket, and what its secret is."""

import asyncio

from fildes import sdk

VERSION = "one"


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await socket(receive, send)
    elif scope["type"] == "http":
        await http(scope, receive, send)


async def http(scope, receive, send):
    print(VERSION, "was asked for", scope["path"], flush=True)
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] == "/watchword":
        await whole(send, sdk.secret("watchword"))
    elif scope["path"] == "/drip":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(15):
            await send({"type": "http.response.body", "body": f"{VERSION}\n".encode(), "more_body": True})
            await asyncio.sleep(0.08)
        await send({"type": "http.response.body", "body": b"end\n"})
    else:
        await whole(send, VERSION.encode())


async def whole(send, body):
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def socket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": VERSION})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": VERSION})
