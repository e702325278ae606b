"""Compiles sources with the interpreter that will run them, in processes of their own: a source may crash a compiler.

The .pyc are of the unchecked-hash kind (PEP 552): no time stamp in them, so the same source gives the same bytes,
and importing one does not look at the source.
"""

from __future__ import annotations

import _imp
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK = 150
TIMEOUT = 120.0

_WORKER = r"""
import sys, importlib.util
from importlib._bootstrap_external import _code_to_hash_pyc
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
sys.setrecursionlimit(2000)
write(sys.implementation.cache_tag.encode() + b"\n"); sys.stdout.buffer.flush()
while head := read(8):
    path = read(int.from_bytes(head[:4], "little")).decode()
    source = read(int.from_bytes(head[4:], "little"))
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        result = bytes(_code_to_hash_pyc(code, importlib.util.source_hash(source), checked=False))
    except (Exception, RecursionError):
        result = b""
    write(len(result).to_bytes(4, "little") + result); sys.stdout.buffer.flush()
"""


def cache_name(path: str, cache_tag: str) -> str:
    """Where the import system looks for the byte code of "/app/main.py": "/app/__pycache__/main.cpython-313.pyc"."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{cache_tag}.pyc"


def converted(source: Path, magic: bytes, cache_tag: str) -> bytes | None:
    """The byte code that lies beside a source already, as unchecked-hash; None if there is none that fits it.

    For trees that nobody but the machine's owner can write.
    """
    cached = Path(cache_name(str(source), cache_tag))
    try:
        data = cached.read_bytes()
        info = source.stat()
    except OSError:
        return None
    stamp = int(info.st_mtime).to_bytes(8, "little")[:4] + info.st_size.to_bytes(8, "little")[:4]
    if data[:4] != magic or data[4:8] != bytes(4) or data[8:16] != stamp:
        return None
    key: int = int.from_bytes(magic, "little")
    return magic + (1).to_bytes(4, "little") + _imp.source_hash(key, source.read_bytes()) + data[16:]


def compile_sources(python: str, sources: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """(path of the .pyc, its bytes) for each (path of the .py, its bytes) that compiles; the others are left out.

    Deterministic: the chunks do not depend on the machine, the interpreter has a fixed hash seed and no environment.
    Raises OSError when `python` cannot be run.
    """
    chunks = [sources[start : start + CHUNK] for start in range(0, len(sources), CHUNK)]
    with ThreadPoolExecutor(max(1, min(len(chunks), os.cpu_count() or 1))) as pool:
        return [pyc for done in pool.map(lambda chunk: _chunk(python, chunk), chunks) for pyc in done]


def _chunk(python: str, sources: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    out: list[tuple[str, bytes]] = []
    start = 0
    while start < len(sources):
        tag, results = _run(python, sources[start:])
        for (path, _), result in zip(sources[start:], results, strict=False):
            if result:
                out.append((cache_name(path, tag), result))
        start += len(results) + 1 if start + len(results) < len(sources) else len(results)
    return out


def _run(python: str, sources: Sequence[tuple[str, bytes]]) -> tuple[str, list[bytes]]:
    """As many results as the worker gave before it ended; the source after the last one ended it."""
    feed = bytearray()
    for path, source in sources:
        name = path.encode()
        feed += len(name).to_bytes(4, "little") + len(source).to_bytes(4, "little") + name + source
    command = [python, "-S", "-s", "-P", "-B", "-X", "utf8", "-W", "ignore", "-c", _WORKER]
    environment = {"PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env=environment
    ) as worker:
        try:
            data, _ = worker.communicate(bytes(feed), timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            worker.kill()
            data, _ = worker.communicate()
    tag, newline, rest = data.partition(b"\n")
    if not newline:
        raise OSError(
            f"{python} ended with {worker.returncode} before it compiled anything: is it Python 3.11 or newer?"
        )
    results = []
    at = 0
    while at + 4 <= len(rest):
        length = int.from_bytes(rest[at : at + 4], "little")
        if at + 4 + length > len(rest):
            break
        results.append(rest[at + 4 : at + 4 + length])
        at += 4 + length
    return tag.decode(), results
