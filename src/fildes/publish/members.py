"""What is in a pack: the sources under /app; of a program its packages under /deps, and byte code for all of it.

A project that is a package itself, and keeps its code in a folder of its own ("src"), has that code under /deps too,
where an installation would have put it: the same contents, stored once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from fildes.pack.collect import LEFT_OUT, Slice, Source, collect
from fildes.pack.writer import with_bytecode
from fildes.publish.tree import File, Parts, Tree, expand

APP: Final = "/app"
DEPS: Final = "/deps"


class Own(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """`roots`: folders of the upload whose content belongs under /deps; `metadata`: path below /deps → text."""

    roots: list[str] = []
    metadata: dict[str, str] = {}


NOTHING_OWN: Final = Own()

_byte_code: Final = msgspec.msgpack.Decoder(list[tuple[str, bytes]])


def sources(tree: Tree, contents: int) -> list[Source]:
    """The upload as it is, without caches. Raises Rejected."""
    return [_source(parts, file, contents) for parts, file in expand(tree) if LEFT_OUT.isdisjoint(parts)]


def program(python: str, members: Sequence[Source], site: str, own: Own) -> list[Source]:
    """All members of a program's pack. `site` is the folder of what was installed, with its byte code; "": nothing."""
    found = [*members, *_own(members, own)]
    found += with_bytecode(python, found)
    if not site:
        return found
    taken = {source.path for source in found}  # as in an installation: who comes last stays, and that is the project
    found += (s for s in collect(f"{site}/deps", DEPS, keep=installed) if s.path not in taken)
    with open(f"{site}/byte-code", "rb") as file:
        found += (Source(path, data) for path, data in _byte_code.decode(file.read()) if path not in taken)
    return found


def encode_byte_code(compiled: Sequence[Source]) -> bytes:
    """What lies as "byte-code" beside an installed "deps"."""
    return msgspec.msgpack.encode([(source.path, source.data) for source in compiled])


def installed(path: str) -> bool:
    return path != ".lock"  # uv's own


def _own(members: Sequence[Source], own: Own) -> Iterator[Source]:
    seen: set[str] = set()
    for root in own.roots:
        prefix = f"{APP}/{root}/"
        for member in members:
            path = f"{DEPS}/{member.path.removeprefix(prefix)}"
            if member.path.startswith(prefix) and path not in seen:
                seen.add(path)
                yield Source(path, member.data, member.mode, member.mtime)
    for name, text in own.metadata.items():
        if f"{DEPS}/{name}" not in seen:
            yield Source(f"{DEPS}/{name}", text.encode())


def _source(parts: Parts, file: File | None, contents: int) -> Source:
    path = os.path.join(APP, *parts)
    if file is None:
        return Source(path, None, 0o755)
    return Source(path, Slice(contents, file.offset, file.size), file.mode, file.mtime)
