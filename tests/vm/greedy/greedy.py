"""Takes what it is asked for: /memory?MiB, /tasks?N, /cpu?SECONDS, /disk?MiB; answers how much it got."""

import threading
import time

held = []


def take(what: str, amount: float) -> str:
    if what == "/memory":
        held.append(bytearray(int(amount) << 20))
        return "all of it"
    if what == "/tasks":
        started = 0
        try:
            while started < amount:
                threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        return str(started)
    if what == "/cpu":
        began, turns = time.monotonic(), 0
        while time.monotonic() - began < amount:
            turns += 1
        return str(turns)
    if what == "/disk":
        try:
            with open("/disk/file", "wb") as file:
                file.write(bytes(int(amount) << 20))
        except OSError as error:
            return str(error)
        return "all of it"
    return "hello"


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    text = take(scope["path"], float(scope["query_string"] or b"0"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
