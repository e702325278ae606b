"""What the tests of the function and service runtimes run."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time

from fildes.sdk import Request, Response

print = functools.partial(print, file=sys.stderr, flush=True)  # the stage reads its zygote's standard output


def handle(request: Request):
    name = request.path.strip("/").replace("/", "_") or "text"
    return globals()["do_" + name](request) if "do_" + name in globals() else Response("none", 404)


async def handle_async(request: Request):
    await asyncio.sleep(0)
    if request.path == "/rows":
        return rows()
    return handle(request)


async def rows():
    for n in range(3):
        await asyncio.sleep(0.001)
        yield f"{n};"


class Object:
    async def __call__(self, request):
        return {"prefix": request.prefix, "path": request.path}


an_object = Object()


def no_argument():
    return ""


def do_text(request):
    return "grüß dich"


def do_bytes(request):
    return b"\0\1"


def do_json(request):
    return {"method": request.method, "query": request.query.all("x"), "agent": request.headers.get("User-Agent")}


def do_echo(request):
    return request.json()


def do_form(request):
    files = {name: [file.name, file.type, len(file.data)] for name, file in request.files().items()}
    return {"fields": request.form().pairs, "files": files}


def do_rows(request):
    return (f"{n};" for n in range(3))


def do_none(request):
    return None


def do_cookies(request):
    return Response(request.cookies, 201, {"X-A": "1"}).set_cookie("seen", "yes", max_age=60)


def do_fails(request):
    raise RuntimeError("on purpose")


def do_breaks(request):
    yield "begun"
    raise RuntimeError("in the middle")


def do_set(request):
    return {1, 2}


def do_badheader(request):
    return Response("x", headers={"X": "a\r\nb: c"})


def do_late(request):
    time.sleep(0.05)
    return threading.current_thread().name


# --- services


def returns(caps):
    print("done")


def crashes(caps):
    raise RuntimeError("it crashed")


def exits(caps):
    sys.exit(5)


def odd(caps):
    return "what?"


def waits(caps):
    assert not caps.wait(0.01)
    print("waiting")
    assert not caps.stopping
    caps.on_stop(lambda: print("called back"))
    assert caps.wait()
    print(f"stopping {caps.stopping} {caps.accept()}")


def answers(caps):
    print("waiting")
    for caller, stream in caps.accepted():
        with stream:
            stream.sendall(f"hello {caller}, {stream.recv(10).decode()}".encode())


async def answers_async(caps):
    caps.on_stop(lambda: print("called back in", threading.current_thread().name))
    assert not await caps.aio.wait(0.01)
    assert await caps.aio.accept(0.01) is None
    other = asyncio.create_task(caps.aio.wait())
    print("waiting")
    async for caller, stream in caps.aio.accepted():
        loop = asyncio.get_running_loop()
        told = await loop.sock_recv(stream, 10)
        await loop.sock_sendall(stream, f"hello {caller}, {told.decode()}".encode())
        stream.close()
    assert await other
    await asyncio.sleep(0)
    print("over")


def unaware(caps):
    print("unaware")
    while True:
        time.sleep(0.01)


async def unaware_async(caps):
    print("unaware")
    try:
        await asyncio.sleep(100)
    finally:
        print("cancelled")


def deaf(caps):
    print("waiting")
    while not caps.stopping or os.getpid():
        time.sleep(0.01)
