"""What `_headers` and `_redirects` have in common: text of bounded size, in lines, with patterns of paths."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote

MAX_FILE: Final = 256 << 10  # bytes
MAX_LINE: Final = 2000  # characters
# What may stand in a path as it is: RFC 3986 pchar and "/". Everything else is written as %XX, in one way only.
_SAFE: Final = "/!$&'()*+,;=:@-._~"
_NAME: Final = re.compile(r":([A-Za-z][A-Za-z0-9_]{0,31})")
_WILD: Final = re.compile(r"\*|:[A-Za-z][A-Za-z0-9_]{0,31}")


class PagesError(ValueError):
    """A line that can't be obeyed; the text names file, line and remedy."""


def wrong(file: str, line: int, text: str) -> PagesError:
    return PagesError(f"{file}:{line}: {text}")


def read(data: bytes, file: str) -> Iterator[tuple[int, str]]:
    """(number, line) of what is neither empty nor a comment; blanks at the end are gone. Raises PagesError."""
    if len(data) > MAX_FILE:
        raise PagesError(f"{file}: {len(data):,} bytes; at most {MAX_FILE:,} are read")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        first = data.count(b"\n", 0, error.start) + 1
        raise wrong(file, first, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from error
    for number, whole in enumerate(text.split("\n"), 1):
        line = whole.rstrip()
        if len(line) > MAX_LINE:
            raise wrong(file, number, f"{len(line)} characters; a line may have {MAX_LINE}")
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def canonical(path: str) -> str:
    """The one way in which a path is written here, whatever way its sender chose: "/ä" and "/%c3%a4" are "/%C3%A4"."""
    return quote(unquote(path, errors="surrogateescape"), safe=_SAFE, errors="surrogateescape")


class Pattern:
    """ "/a", "/blog/*" (whatever follows, also nothing: `splat`), "/:year/:month" (one segment each).

    A slash at the end makes no difference. Raises ValueError, with a sentence, for what is none.
    """

    __slots__ = ("_match", "names", "plain")

    def __init__(self, text: str) -> None:
        if not text.startswith("/"):
            raise ValueError("a path begins with '/'")
        if text.count("*") > 1:
            raise ValueError("'*' may stand once in a path")
        if any(part in ("", ".", "..") for part in text.split("/")[1:-1]):
            raise ValueError("a path has no empty segments, and no '.' or '..'")
        # Two side by side could share a segment out in many ways, and whoever asks for a path chooses how many are
        # tried: one process does that for all sites of a node.
        if any(len(_WILD.findall(part)) > 1 for part in text.split("/")):
            raise ValueError("a segment of a path has one ':name' or one '*', not several")
        self.names: list[str] = []
        self.plain = ""
        if "*" not in text and not _NAME.search(text):
            self.plain = _bare(canonical(text))
            self._match = None
            return
        self._match = re.compile(self._expression(_bare(text))).fullmatch

    def _expression(self, text: str) -> str:
        """Plain text, `[^/]+` for a name, `.*` for the one star: nothing that would have to be tried in many ways."""
        pieces = []
        for piece in re.split(r"(\*|:[A-Za-z][A-Za-z0-9_]{0,31})", text):
            if piece == "*":
                self.names.append("splat")
                pieces.append("(.*)")
            elif _NAME.fullmatch(piece):
                self.names.append(piece[1:])
                pieces.append("([^/]+)")
            else:
                pieces.append(re.escape(canonical(piece)))
        if len(set(self.names)) != len(self.names):
            raise ValueError("a name stands twice in a path")
        expression = "".join(pieces)
        return expression.removesuffix("/(.*)") + "(?:/(.*))?" if text.endswith("/*") else expression

    def match(self, path: str) -> dict[str, str] | None:
        """The names' values if `path` (canonical) fits."""
        path = _bare(path)
        if self._match is None:
            return {} if path == self.plain else None
        found = self._match(path)
        return None if found is None else {n: v or "" for n, v in zip(self.names, found.groups(), strict=True)}


def filled(text: str, values: dict[str, str]) -> str:
    """`text` with the values in the places of its ":names"."""
    return _NAME.sub(lambda found: values.get(found[1], found[0]), text)


def names_in(text: str) -> set[str]:
    return {found[1] for found in _NAME.finditer(text)}


def _bare(path: str) -> str:
    return path.rstrip("/") or "/"
