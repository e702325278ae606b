"""The same file in other codings, made when it was published: where they lie in a pack, and which one a client gets."""

from __future__ import annotations

import re
from typing import Final

from fildes.pages.types import content_type

ROOT: Final = "/app"  # where the files of a site lie in its pack
# Content coding (RFC 9110 §8.4.1) → where its files lie; the smaller ones first.
FOLDERS: Final = {"br": "/br", "gzip": "/gzip"}
_QUALITY: Final = re.compile(rb"[ \t]*[qQ][ \t]*=[ \t]*([01](?:\.\d{0,3})?)[ \t]*")
_COMPRESSIBLE: Final = re.compile(
    r"text/.*|.*[/+](json|xml|wasm|javascript)|image/(svg\+xml|bmp|x-icon)|font/(ttf|otf)|application/(x-tar|msword)"
)


def compressible(path: str) -> bool:
    """Is it of a type that gets smaller? What is compressed in itself does not."""
    return _COMPRESSIBLE.fullmatch(content_type(path).partition(";")[0]) is not None


def place(coding: str, path: str) -> str:
    """ "/app/a.css" in "br" → "/br/a.css"."""
    return FOLDERS[coding] + path.removeprefix(ROOT)


def accepted(values: list[bytes]) -> list[str]:
    """The codings of ours that a client takes, the best for it first, from its Accept-Encoding fields (§12.5.3)."""
    qualities: dict[bytes, float] = {}
    for item in b",".join(values).split(b","):
        coding, semicolon, weight = item.partition(b";")
        found = _QUALITY.fullmatch(weight) if semicolon else None
        if not semicolon or found:
            qualities[coding.strip().lower()] = float(found[1]) if found else 1.0
    if b"x-gzip" in qualities:
        qualities.setdefault(b"gzip", qualities[b"x-gzip"])
    anything = qualities.get(b"*", 0.0)
    taken = [(qualities.get(coding.encode(), anything), coding) for coding in FOLDERS]
    return [coding for quality, coding in sorted(taken, key=lambda entry: -entry[0]) if quality > 0]
