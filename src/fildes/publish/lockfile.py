"""requirements.lock, the lock that is made here: pinned and hashed lines under a head that says what for. Pure.

    # Made by fildes for Python 3.13, from requirements.txt. To make it again: fildes publish DIR --lock
    # requirements: sha256:…
    flask==3.1.0 \\
        --hash=sha256:…

By the second line a lock is known to be that of these requirements, on whatever machine it is found. Locks of other
tools (pip-compile, uv) go by the same name and have no such head: they are looked at name by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from fildes.publish import environment, requirements
from fildes.publish.scratch import digest

LOCK: Final = "requirements.lock"
_MADE: Final = re.compile(rb"# Made by fildes for Python (\d+\.\d+)[,.]")
_FOR: Final = re.compile(rb"# requirements: sha256:([0-9a-f]{64})\r?")
_HEAD: Final = 512  # bytes


class Head(NamedTuple):
    """What a lock says about itself; "" where it doesn't."""

    python: str
    requirements: str


def key(lines: Iterable[str]) -> str:
    """What requirements are known by, in whatever order and with whatever blanks they are written."""
    return digest(sorted(" ".join(line.split()) for line in lines))


def head(lock: bytes) -> Head:
    first = lock[:_HEAD].split(b"\n")[:4]
    made = next((match for line in first if (match := _MADE.match(line))), None)
    meant = next((match for line in first if (match := _FOR.fullmatch(line))), None)
    return Head(made[1].decode() if made else "", meant[1].decode() if meant else "")


def with_head(lock: bytes, lines: Collection[str], source: str) -> bytes:
    """`lock`, as uv wrote it, for the requirements `lines` of the file `source`."""
    text = (
        f"# Made by fildes for Python {environment.python()}, from {source}. "
        "To make it again: fildes publish DIR --lock\n"
        f"# requirements: sha256:{key(lines)}\n"
    )
    return text.encode() + lock


def plain(lock: bytes) -> str:
    """The lines of a lock that uv wrote, as an uploaded one's are handed on: no comments, a line a package."""
    text = lock.decode().replace("\\\n", " ")
    return "".join(f"{' '.join(line.split())}\n" for line in text.split("\n") if line and not line.startswith("#"))


def stale(lock: bytes, pinned: tuple[str, ...], lines: tuple[str, ...]) -> str:
    """Why `lock`, whose lines are `pinned`, is not one of the requirements `lines`, in words; "" if it is."""
    if head(lock).requirements:
        return "" if head(lock).requirements == key(lines) else "it was made for other requirements"
    wants = environment.effective(((requirements.without_hashes(line), "") for line in lines), LOCK)
    return environment.missing(wants, requirements.pins(pinned))
