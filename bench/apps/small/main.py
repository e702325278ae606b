"""The smallest ASGI application that answers."""

BODY = b"hello\n"
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"6")],
}
END = {"type": "http.response.body", "body": BODY}


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError(f"no {scope['type']} here")
    await send(START)
    await send(END)
