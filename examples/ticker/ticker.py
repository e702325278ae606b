"""A clock for the browser by server-sent events; the time comes from the clock grant."""

import asyncio

from fildes import sdk

PAGE = b"""<!doctype html>
<meta charset="utf-8"><title>Ticker</title>
<h1 id="now">&hellip;</h1>
<script>
  new EventSource("/events").onmessage = (event) => {
    document.querySelector("#now").textContent = new Date(Number(event.data)).toLocaleTimeString();
  };
</script>
"""


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] != "/events":
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(PAGE)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE})
        return
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    gone = asyncio.create_task(left(receive))
    try:
        while not gone.done():
            now = sdk.clock().time_ns() // 1_000_000
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % now, "more_body": True})
            # The next event falls on the next full second.
            await asyncio.wait({gone}, timeout=1 - now % 1000 / 1000)
    finally:
        gone.cancel()


async def left(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
