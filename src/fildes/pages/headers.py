"""`_headers`: blocks of a path and, indented below it, the fields that its answers get.

    /*
      X-Frame-Options: DENY
    /assets/*
      Cache-Control: public, max-age=31536000, immutable
      ! X-Frame-Options              not here, after all

Every block that fits counts, in their order; a field that several give has all their values, with commas between.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fildes.pages.lines import PagesError, Pattern, read, wrong

FILE: Final = "_headers"
MAX_BLOCKS: Final = 200
MAX_FIELDS: Final = 100  # of one block
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
# Those that say how the bytes are sent: the server's to say, and cookies, which an answer for everybody must not set.
OURS: Final = frozenset({
    "accept-ranges", "age", "allow", "connection", "content-encoding", "content-length", "content-range", "date",
    "etag", "keep-alive", "last-modified", "location", "proxy-authenticate", "proxy-connection", "server",
    "set-cookie", "te", "trailer", "transfer-encoding", "upgrade", "vary",
})  # fmt: skip


@dataclass(slots=True)
class _Block:
    pattern: Pattern
    fields: list[tuple[str, str | None]]  # None: taken away


class Headers:
    """Raises PagesError for a line that can't be obeyed."""

    def __init__(self, data: bytes = b"") -> None:
        self._blocks: list[_Block] = []
        for line, text in read(data, FILE):
            if text[0] in " \t":
                self._field(line, text.strip())
            else:
                self._block(line, text)

    def __len__(self) -> int:
        return len(self._blocks)

    def of(self, path: str) -> dict[str, str]:
        """The fields for a path (as `lines.canonical` gives it), their names in lower case."""
        found: dict[str, str] = {}
        for block in self._blocks:
            if block.pattern.match(path) is None:
                continue
            for name, value in block.fields:
                if value is None:
                    found.pop(name, None)
                else:
                    found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    def _block(self, line: int, text: str) -> None:
        if len(self._blocks) >= MAX_BLOCKS:
            raise PagesError(f"{FILE}:{line}: more than {MAX_BLOCKS} blocks")
        try:
            self._blocks.append(_Block(Pattern(text), []))
        except ValueError as error:
            hint = "fields are indented below their path" if ":" in text and not text.startswith("/") else ""
            raise wrong(FILE, line, f"{text[:80]}: {hint or error}") from error

    def _field(self, line: int, text: str) -> None:
        if not self._blocks:
            raise wrong(FILE, line, "a field before any path; write the path it is for above it, such as /*")
        fields = self._blocks[-1].fields
        if len(fields) >= MAX_FIELDS:
            raise wrong(FILE, line, f"more than {MAX_FIELDS} fields for one path")
        away = text.startswith("!")
        name, colon, value = text.removeprefix("!").strip().partition(":")
        name, value = name.strip().lower(), value.strip()
        if not _TOKEN.fullmatch(name) or (not colon and not away):
            raise wrong(FILE, line, f"{text[:80]}: expected Name: value, or ! Name to take one away")
        if name in OURS:
            raise wrong(FILE, line, f"{name}: this field is the server's to say; leave the line out")
        if not _VALUE.fullmatch(value):
            raise wrong(FILE, line, f"{name}: its value holds what no header can carry")
        fields.append((name, None if away else value))
