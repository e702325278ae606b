"""A ledger: `POST /entries {"item": …, "cents": …}` books, `GET /balance` tells. Kept as long as the instance is awake.

It checks nobody's identity: whom the bus did not introduce can't connect.
"""

import json

entries = []
MOST = 10_000


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    match scope["method"], scope["path"]:
        case "GET", "/balance":
            await answer(send, 200, {"cents": sum(entry["cents"] for entry in entries), "entries": len(entries)})
        case "POST", "/entries":
            entry = checked(await body(receive))
            if entry is None or len(entries) >= MOST:
                await answer(send, 422, {"error": 'expected {"item": text, "cents": a whole number}'})
            else:
                entries.append(entry)
                await answer(send, 201, entry)
        case _:
            await answer(send, 404, {"error": "GET /balance and POST /entries are all there is"})


def checked(data):
    try:
        entry = json.loads(data)
    except (ValueError, RecursionError):
        return None
    good = isinstance(entry, dict) and isinstance(entry.get("item"), str) and type(entry.get("cents")) is int
    return {"item": entry["item"][:100], "cents": entry["cents"]} if good else None


async def body(receive):
    data, more = b"", True
    while more and len(data) < 10_000:
        message = await receive()
        data += message.get("body", b"")
        more = message.get("more_body", False)
    return data


async def answer(send, status, value):
    data = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
