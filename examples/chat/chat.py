"""A chat room over WebSockets, in plain ASGI: what one says, all hear."""

import asyncio

PAGE = b"""<!doctype html>
<meta charset="utf-8"><title>Chat</title>
<ul id="said"></ul>
<form><input id="text" autofocus maxlength="500"><button>Say</button></form>
<script>
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const room = new WebSocket(scheme + "//" + location.host + "/room");
  const say = (line) => { const li = document.createElement("li"); li.textContent = line; said.append(li); };
  room.onmessage = (event) => say(event.data);
  room.onclose = () => say("(the room has closed; reload to come back)");
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    room.send(text.value);
    text.value = "";
  };
</script>
"""
LONGEST = 500  # characters
BEHIND = 100  # lines that a slow listener may be behind before the oldest are left out

listeners = set()


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await room(receive, send)
    elif scope["type"] == "http":
        found = scope["path"] == "/"
        body = PAGE if found else b"Nothing here; the chat is at /."
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def room(receive, send):
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    mine = asyncio.Queue(BEHIND)
    listeners.add(mine)
    telling = asyncio.create_task(tell(mine, send))
    try:
        say(f"(someone came in: {len(listeners)} here)")
        while (message := await receive())["type"] == "websocket.receive":
            text = (message.get("text") or "").strip()
            if text:
                say(text[:LONGEST])
    finally:
        listeners.discard(mine)
        telling.cancel()
        say(f"(someone left: {len(listeners)} here)")


def say(text):
    for queue in listeners:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(text)


async def tell(queue, send):
    while True:
        await send({"type": "websocket.send", "text": await queue.get()})
