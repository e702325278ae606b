"""Compiles what is not compiled: daemons with a uid of their own may not write beside the sources, and would compile
everything anew at each start, 250 ms or not."""

from __future__ import annotations

import os
from importlib.util import MAGIC_NUMBER, cache_from_source


def refresh(folder: str) -> int:
    """Compile every stale module below `folder`; how many. Where we may not write either, nothing is done."""
    if not os.access(folder, os.W_OK):
        return 0
    stale = [path for path in _sources(folder) if not _is_fresh(path)]
    if stale:
        import py_compile

        for path in stale:
            py_compile.compile(path, quiet=2)  # what is no Python will say so where it is imported
    return len(stale)


def _sources(folder: str) -> list[str]:
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names if name.endswith(".py")]


def _is_fresh(path: str) -> bool:
    """By the header of its .pyc: magic number, flags, and the source's time and size (PEP 552)."""
    try:
        with open(cache_from_source(path), "rb") as file:
            header = file.read(16)
        status = os.stat(path)
    except OSError:
        return False
    words = MAGIC_NUMBER, bytes(4), _word(int(status.st_mtime)), _word(status.st_size)
    return header == b"".join(words)


def _word(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")
