"""The WSGI program that the tests serve: one behaviour a path. `checked` is the same behind wsgiref.validate."""

from __future__ import annotations

import contextvars
import hashlib
import json
import os
import sys
import threading
import time
from wsgiref.validate import validator

CLOSED: list[str] = []
LOCAL = threading.local()
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
LOCK = threading.Lock()
MEETING = threading.Barrier(4)
LET_GO = threading.Event()


def app(environ, start_response):
    name = environ["PATH_INFO"].rpartition("/")[2] or "hello"
    return globals().get("get_" + name, get_missing)(environ, start_response)


checked = validator(app)


def answer(start_response, body, status="200 OK", *headers):
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]


class Closing:
    """An iterable that has to be closed."""

    def __init__(self, pieces, name):
        self.pieces, self.name = iter(pieces), name

    def __iter__(self):
        return self.pieces

    def close(self):
        CLOSED.append(self.name)


def get_missing(environ, start_response):
    return answer(start_response, b"nothing here", "404 Not Found")


def get_hello(environ, start_response):
    return answer(start_response, b"Hello")


def get_environ(environ, start_response):
    shown = {key: value for key, value in environ.items() if isinstance(value, str | int | bool | tuple)}
    shown["pid"] = os.getpid()
    shown["thread"] = threading.current_thread().name
    return answer(start_response, json.dumps(shown).encode())


def get_bare(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"no length given"]


def get_pieces(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"one ", b"", b"two"]


def get_stream(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    for n in range(5):
        yield b"%d," % n
        yield b""
    yield b"end"


def get_after(environ, start_response):
    """There is code behind the last piece."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    yield b"begun"
    CLOSED.append("after")


def get_late(environ, start_response):
    time.sleep(0.05)
    return answer(start_response, b"late")


def get_slowly(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    for n in range(3):
        time.sleep(0.02)
        yield b"%d." % n


def get_closing(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Closing([b"closing"], environ["QUERY_STRING"])


def get_slowclose(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    slow = Closing([b"ok"], "slow")
    slow.close = lambda: (time.sleep(0.1), CLOSED.append("slow"))
    return slow


def get_closed(environ, start_response):
    return answer(start_response, json.dumps(CLOSED).encode())


def get_write(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written, ")
    write(b"")
    write(b"again, ")
    return [b"returned"]


def get_fails(environ, start_response):
    raise RuntimeError("on purpose")


def get_failslate(environ, start_response):
    time.sleep(0.05)
    raise RuntimeError("late, on purpose")


def get_breaks(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"begun"
    raise RuntimeError("in the middle")


def get_mended(environ, start_response):
    """An error that the program sees itself, before anything was sent."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        raise RuntimeError("seen")
    except RuntimeError:
        start_response("503 Mended", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"mended"]


def get_toolate(environ, start_response):
    """And after: start_response raises it again."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"sent")
    try:
        raise RuntimeError("seen too late")
    except RuntimeError:
        start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"never"]


def get_twice(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"never"]


def get_silent(environ, start_response):
    return [b"without start_response"]


def get_short(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])
    yield b"four"


def get_long(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    yield b"four"
    yield b"five"


def get_text(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["text"]


def get_status(environ, start_response):
    status = environ["QUERY_STRING"].replace("%20", " ").replace("+", " ")
    start_response(status, [] if status[:3] in ("204", "304") else [("Content-Type", "text/plain")])
    return [b""] if status[:3] in ("204", "304") else [b"x"]


def get_header(environ, start_response):
    name, _, value = environ["QUERY_STRING"].partition("=")
    value = value.replace("%0D", "\r").replace("%0A", "\n")
    return answer(start_response, b"x", "200 OK", (name, value), ("X-Latin", "caf\xe9"))


def get_cookies(environ, start_response):
    return answer(start_response, b"x", "200 OK", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Connection", "x"))


def get_echo(environ, start_response):
    body = environ["wsgi.input"].read()
    return answer(start_response, b"%d %s" % (len(body), hashlib.sha256(body).hexdigest().encode()))


def get_lines(environ, start_response):
    stream = environ["wsgi.input"]
    first = stream.readline(), stream.readline(3), stream.read(2), stream.readline()
    rest = list(stream)
    return answer(start_response, repr((first, rest, stream.read(4))).encode())


def get_half(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read(5))


def get_ignores(environ, start_response):
    return answer(start_response, b"ignored")


def get_tolerant(environ, start_response):
    try:
        environ["wsgi.input"].read()
    except OSError as error:
        return answer(start_response, str(error).encode())
    return answer(start_response, b"all of it")


def get_interim(environ, start_response):
    """Answers before it reads."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"before ")
    return [environ["wsgi.input"].read()]


def get_big(environ, start_response):
    size = int(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(size))])
    return [bytes(size)]


def get_large(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(256):
        yield bytes(65536)


def get_endless(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Closing(iter(lambda: bytes(65536), None), "endless")


def get_file(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](_Memory(), 7)


class _Memory:
    def __init__(self):
        self.left = [b"from ", b"a ", b"file"]

    def read(self, size):
        return self.left.pop(0)[:size] if self.left else b""

    def close(self):
        CLOSED.append("file")


def get_meet(environ, start_response):
    """Four of these have to run at once."""
    MEETING.wait(5)
    return answer(start_response, b"met")


def get_wait(environ, start_response):
    LET_GO.wait(10)
    return answer(start_response, b"let go")


def get_letgo(environ, start_response):
    LET_GO.set()
    return answer(start_response, b"done")


def get_locals(environ, start_response):
    """What one thread keeps, another does not see; a lock is a lock."""
    mine = threading.get_ident()
    seen = getattr(LOCAL, "ident", mine)
    LOCAL.ident = mine
    token = VARIABLE.set(mine)
    with LOCK:
        time.sleep(0.002)
    same = VARIABLE.get() == mine
    VARIABLE.reset(token)
    return answer(start_response, b"ok" if same and seen == mine else b"mixed up")


def get_thread(environ, start_response):
    found = []
    thread = threading.Thread(target=lambda: found.append(b"from a thread"))
    thread.start()
    thread.join()
    return answer(start_response, found[0])


def get_spin(environ, start_response):
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    return answer(start_response, b"spun")


def get_exit(environ, start_response):
    sys.exit(7)
