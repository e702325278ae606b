"""A shop that keeps its books in another service. What it may call is in its manifest, not in its code."""

import json

from fildes import sdk

GOODS = {"tea": 320, "coffee": 410, "cake": 280}

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Shop</title>
<h1>Shop</h1>
<form method="post">{buttons}</form>
<p>Sold so far: {sold} things, {euros:.2f} &euro;</p>
"""
BUTTON = '<button formaction="/buy/{name}">{name}, {euros:.2f} &euro;</button> '


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    try:
        status, page, headers = await respond(scope["method"], scope["path"])
    except (sdk.Denied, sdk.Unavailable) as error:
        status, page, headers = 503, f"The ledger can't be reached: {error}", []
    body = page.encode()
    fixed = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


async def respond(method, path):
    if method == "GET" and path == "/":
        balance = json.loads((await sdk.fetch("ledger", "/balance")).body)
        buttons = "".join(BUTTON.format(name=name, euros=cents / 100) for name, cents in GOODS.items())
        return 200, PAGE.format(buttons=buttons, sold=balance["entries"], euros=balance["cents"] / 100), []
    name = path.removeprefix("/buy/")
    if method == "POST" and name in GOODS:
        entry = json.dumps({"item": name, "cents": GOODS[name]}).encode()
        booked = await sdk.fetch("ledger", "/entries", method="POST", body=entry)
        if booked.status != 201:
            return 502, "The ledger did not take it.", []
        return 303, "", [(b"location", b"/")]
    return 404, "Nothing of that name is sold here.", []
