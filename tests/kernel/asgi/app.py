"""The ASGI program that the tests serve: one behaviour a path."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

STARTED: list[str] = []
LOOP = asyncio.get_event_loop_policy().get_event_loop() if sys.version_info < (3, 14) else None
random.random()


async def app(scope, receive, send):
    await {"lifespan": lifespan, "websocket": websocket, "http": http}[scope["type"]](scope, receive, send)


async def lifespan(scope, receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            if os.environ.get("STARTUP") == "fails":
                await send({"type": "lifespan.startup.failed", "message": "no database"})
                return
            if os.environ.get("STARTUP") == "raises":
                raise RuntimeError("no luck")
            STARTED.append("yes")
            scope["state"]["started"] = "yes"
            await send({"type": "lifespan.startup.complete"})
        else:
            print("shutting down", file=sys.stderr)
            await send({"type": "lifespan.shutdown.complete"})
            return


async def http(scope, receive, send):
    name = scope["path"].rpartition("/")[2] or "hello"
    await globals().get("get_" + name, get_missing)(scope, receive, send)


async def answer(send, body, status=200, headers=()):
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body)), *headers]}
    )
    await send({"type": "http.response.body", "body": body})


async def get_missing(scope, receive, send):
    await answer(send, b"nothing here", 404)


async def get_hello(scope, receive, send):
    await answer(send, b"Hello")


async def get_scope(scope, receive, send):
    shown = {key: value for key, value in scope.items() if key not in ("headers", "state")}
    shown["headers"] = [[n.decode(), v.decode()] for n, v in scope["headers"]]
    shown["state"] = scope["state"]
    shown["pid"] = os.getpid()
    shown["random"] = random.random()
    shown["same loop"] = LOOP is None or asyncio.get_running_loop() is LOOP
    await answer(send, json.dumps(shown, default=lambda value: value.decode()).encode())


async def get_bare(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"no length given"})


async def get_late(scope, receive, send):
    await asyncio.sleep(0.05)
    await answer(send, b"late")


async def get_echo(scope, receive, send):
    body = b""
    pieces = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        pieces += 1
        if not message["more_body"]:
            break
    await answer(send, body, headers=[(b"x-pieces", b"%d" % pieces)])


async def get_count(scope, receive, send):
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    await answer(send, b"%d" % size)


async def get_peek(scope, receive, send):
    message = await receive()
    await answer(send, b"%d" % len(message["body"]))


async def get_stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for n in range(5):
        await send({"type": "http.response.body", "body": b"%d," % n, "more_body": True})
        await asyncio.sleep(0.002)
    await send({"type": "http.response.body", "body": b"end"})


async def get_large(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (40 << 20))]})
    for _ in range(40):
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    await send({"type": "http.response.body"})


async def get_big(scope, receive, send):
    await answer(send, bytes(5 << 20))


async def get_events(scope, receive, send):
    """Server-sent events until the client goes away; says so in its log."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    gone = asyncio.ensure_future(until_gone(receive))
    n = 0
    try:
        while not gone.done():
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % n, "more_body": True})
            n += 1
            await asyncio.wait([gone], timeout=0.01 if b"quiet" not in scope["query_string"] else 60)
    finally:
        gone.cancel()
        print("the client is gone", file=sys.stderr, flush=True)


async def until_gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def get_headfirst(scope, receive, send):
    """Sends the head, and waits for the body of the request before it sends more."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    message = await receive()
    await send({"type": "http.response.body", "body": message["body"]})


async def get_hang(scope, receive, send):
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        print("cancelled", file=sys.stderr, flush=True)
        raise


async def get_trailers(scope, receive, send):
    """Says in a trailer how many pieces of body there were: ?PIECES"""
    pieces = int(scope["query_string"])
    headers = [(b"x-extension", b"%d" % ("http.response.trailers" in scope.get("extensions", {})))]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    for _ in range(pieces - 1):
        await send({"type": "http.response.body", "body": b"piece", "more_body": True})
    await send({"type": "http.response.body", "body": b"last"})
    await send({"type": "http.response.trailers", "headers": [(b"x-pieces", b"%d" % pieces)], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"x-more", b"yes")]})


async def get_block(scope, receive, send):
    """64 KiB at a time, as a file is sent."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(256):
        await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
    await send({"type": "http.response.body"})


async def get_fails(scope, receive, send):
    raise RuntimeError("on purpose")


async def get_exits(scope, receive, send):
    sys.exit(7)


async def get_halfway(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("halfway, on purpose")


async def get_nothing(scope, receive, send):
    return


async def get_short(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"short"})


async def get_status(scope, receive, send):
    status = int(scope["query_string"])
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"body"})


async def get_headers(scope, receive, send):
    headers = json.loads(bytes.fromhex(scope["query_string"].decode()))
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(n.encode(), v.encode()) for n, v in headers]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


async def get_background(scope, receive, send):
    """Goes on working after its response."""
    await answer(send, b"begun")
    await asyncio.sleep(0.3)
    print("background done", file=sys.stderr, flush=True)


KEPT = []


async def get_keep(scope, receive, send):
    KEPT.append(send)
    await answer(send, b"kept")


async def get_stale(scope, receive, send):
    try:
        await KEPT[-1]({"type": "http.response.start", "status": 200})
    except RuntimeError:
        await answer(send, b"refused")


async def get_thread(scope, receive, send):
    await answer(send, str(await asyncio.to_thread(lambda: 6 * 7)).encode())


async def get_wait(scope, receive, send):
    """Answers when another request asks for /go."""
    global WAITING
    WAITING = asyncio.get_running_loop().create_future()
    await WAITING
    await answer(send, b"gone on")


async def get_go(scope, receive, send):
    WAITING.set_result(None)
    await answer(send, b"go")


async def get_disconnect(scope, receive, send):
    """Waits for the client to go, without writing."""
    await receive()
    message = await receive()
    print("got", message["type"], file=sys.stderr, flush=True)


async def websocket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    path = scope["path"]
    if path == "/refuse":
        await send({"type": "websocket.close"})
        return
    if path == "/deny":
        await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-why", b"tea")]})
        await send({"type": "websocket.http.response.body", "body": b"no "})
        return
    if path == "/raise":
        raise RuntimeError("on purpose")
    if path == "/leave":
        return
    if path == "/hang":
        await get_hang(scope, receive, send)
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-ws", b"yes")]})
    if path == "/flood":
        for _ in range(100):
            await send({"type": "websocket.send", "bytes": bytes(1 << 18)})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            print("disconnect", message["code"], message["reason"], file=sys.stderr, flush=True)
            return
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
            continue
        if (message.get("text") or "").startswith("close "):
            try:
                await send({"type": "websocket.close", "code": int(message["text"][6:])})
            except RuntimeError:
                await send({"type": "websocket.send", "text": "refused"})
            continue
        if message.get("text") == "raise":
            raise RuntimeError("on purpose")
        if message.get("text") == "return":
            return
        if message.get("text") == "pause":
            await asyncio.sleep(0.3)
        await send({"type": "websocket.send", **{k: message[k] for k in ("text", "bytes") if k in message}})
