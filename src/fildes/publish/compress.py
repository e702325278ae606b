"""The files of a static site in other codings, made once here so that serving them costs nothing."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import brotli

from fildes.pack.collect import Slice, Source
from fildes.pages.variants import compressible, place

LEAST: Final = 256  # bytes: below, the head is most of an answer
MOST: Final = 16 << 20  # bytes: above, one file would take the time of all others
GAIN: Final = 0.9  # of the size; what gets hardly smaller is left alone
# Brotli's last levels take ten times as long for some percent: worth it for a small site, too long for a large one.
_QUALITY: Final = ((2 << 20, 11), (16 << 20, 9))
_HURRIED: Final = 5
_THREADS: Final = 4  # both codecs let go of the interpreter's lock


def variants(members: Sequence[Source]) -> list[Source]:
    """The further members of a site's pack, below the folders of `pages.variants`, for those that gain by it."""
    wanted = [m for m in members if _size(m) >= LEAST and _size(m) <= MOST and compressible(m.path)]
    total = sum(map(_size, wanted))
    quality = next((level for size, level in _QUALITY if total <= size), _HURRIED)
    codecs: dict[str, Callable[[bytes], bytes]] = {
        "br": lambda data: brotli.compress(data, quality=quality),
        "gzip": lambda data: gzip.compress(data, 9 if quality > _HURRIED else 6, mtime=0),
    }

    def of(member: Source) -> list[Source]:
        data = _read(member)
        smaller = ((coding, encode(data)) for coding, encode in codecs.items())
        return [
            Source(place(coding, member.path), made, member.mode & 0o666, member.mtime)
            for coding, made in smaller
            if len(made) <= len(data) * GAIN
        ]

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return [source for made in pool.map(of, wanted) for source in made]


def _size(member: Source) -> int:
    if isinstance(member.data, Slice):
        return member.data.size
    return len(member.data) if isinstance(member.data, bytes) else 0


def _read(member: Source) -> bytes:
    return (
        member.data.read() if isinstance(member.data, Slice) else member.data if isinstance(member.data, bytes) else b""
    )
