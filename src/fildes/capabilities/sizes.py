"""Sizes as grants and manifests write them: "512MiB"."""

from __future__ import annotations

import re
from typing import Final

UNITS: Final = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
SIZE: Final = re.compile(r"(\d{1,15})\s*([A-Za-z]*)", re.ASCII)


def parse(text: str) -> int | None:
    """Bytes, None where `text` is no size: of "67108864", "64MiB", "64 MB"."""
    found = SIZE.fullmatch(text)
    unit = UNITS.get(found[2] or "B") if found is not None else None
    return int(found[1]) * unit if found is not None and unit is not None else None
