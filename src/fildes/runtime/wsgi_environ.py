"""The environ of a WSGI program (PEP 3333), from a request's head.

A client that keeps its connection sends the same header lines again and again, and the parser then gives the same
Fields object: what is made of one is remembered, in a bounded table, unless it carries secrets.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import unquote_to_bytes

from fildes.wire.http import Fields, Line
from fildes.wire.http_fields import SECRET

_REMEMBERED = 128
_BODY = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_PORTS = {"http": "80", "https": "443"}

Environ = dict[str, Any]


class _Keys(dict[bytes, str]):
    """The environ's keys by the names of headers; "" for those that a program must not see."""

    __slots__ = ()

    def __missing__(self, name: bytes) -> str:
        if name in _BODY:
            key = _BODY[name]
        elif b"_" in name or name == b"proxy":
            # X_Real_IP would pass for X-Real-IP; HTTP_PROXY is a setting to what the program calls (httpoxy.org).
            key = ""
        else:
            key = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
        if len(self) < 1024 and len(name) < 64:
            self[name] = key
        return key


_keys = _Keys()
_remembered: dict[int, tuple[Fields, Environ]] = {}  # by the id of the Fields, which the entry keeps alive


class FileWrapper:
    """wsgi.file_wrapper: what it is given, block by block."""

    def __init__(self, filelike: Any, block: int = 65536) -> None:
        self.filelike = filelike
        self.block = block
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.block)
        if not data:
            raise StopIteration
        return data


class Stream:
    """wsgi.errors: whatever sys.stderr is at the moment."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def writelines(self, lines: list[str]) -> None:
        sys.stderr.writelines(lines)

    def flush(self) -> None:
        sys.stderr.flush()


_BASE: Environ = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "fildes",
    "wsgi.version": (1, 0),
    "wsgi.errors": Stream(),
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,  # a release that ends and its successor run at the same time, with one instance each
    "wsgi.run_once": False,
    "wsgi.file_wrapper": FileWrapper,
    "wsgi.input_terminated": True,  # reading past the body gives b"", with chunks too
}


def of_fields(fields: Fields) -> Environ:
    """What of an environ depends on the header lines alone. Copy it before changing it."""
    entry = _remembered.get(id(fields))
    if entry is not None and entry[0] is fields:
        return entry[1]
    environ = _BASE.copy()
    for name, raw in fields.headers:
        key = _keys[name]
        if not key:
            continue
        value = raw.decode("latin-1")
        if key in environ:
            value = environ[key] + ("; " if name == b"cookie" else ",") + value
        environ[key] = value
    host, _, port = fields.authority.decode("latin-1").rpartition(":")
    if not host or not port.isdecimal():
        host, port = fields.authority.decode("latin-1"), ""
    environ["SERVER_NAME"] = host
    environ["SERVER_PORT"] = port
    if SECRET.isdisjoint([name for name, _ in fields.headers]):
        if len(_remembered) >= _REMEMBERED:
            _remembered.clear()
        _remembered[id(fields)] = (fields, environ)
    return environ


def make(line: Line, fields: Fields, root: str, client: tuple[str, int], scheme: str) -> Environ:
    """Everything but wsgi.input. Text is "bytes as Latin-1", as PEP 3333 wants it."""
    environ = of_fields(fields).copy()
    path = line.path
    if not path.isascii():
        path = unquote_to_bytes(line.raw_path).decode("latin-1")
        root = root.encode().decode("latin-1")
    if root:
        path = path[len(root) :]
    if not environ["SERVER_PORT"]:
        environ["SERVER_PORT"] = _PORTS[scheme]
    environ["REQUEST_METHOD"] = line.method
    environ["SCRIPT_NAME"] = root
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = line.query.decode("latin-1")
    environ["REQUEST_URI"] = line.target.decode("latin-1")
    environ["SERVER_PROTOCOL"] = "HTTP/" + line.version
    environ["REMOTE_ADDR"] = client[0]
    environ["REMOTE_PORT"] = str(client[1])
    environ["wsgi.url_scheme"] = scheme
    return environ
