"""On which line of a TOML text each key and array element stands. tomllib does not tell.

The text must have passed tomllib: here it is only walked, not judged. TOML 1.0, https://toml.io/en/v1.0.0.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}(?!")|\'\'\'.*?\'{3,5}(?!\')|"(?:\\.|[^"\\])*"|\'[^\']*\'', re.DOTALL)
_PLAIN = re.compile(r"[^,\]}\n#]+")
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([btnfr"\\]))')
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


def find(text: str) -> dict[Path, int]:
    """Line (from 1) of every table, key and array element of valid TOML."""
    walk = _Walk(text)
    walk.document()
    return walk.lines


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._counted_to = 0
        self._line = 1
        self._tables: dict[Path, int] = {}  # elements seen so far of each [[array of tables]]

    def document(self) -> None:
        table: Path = ()
        while self._blank():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._assignment(table)

    def _header(self) -> Path:
        line = self._here()
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        keys = self._keys()
        self.at = self.text.index("]", self.at) + (2 if double else 1)
        table: Path = ()
        for index, key in enumerate(keys):
            table = (*table, key)
            if double and index == len(keys) - 1:
                self.lines.setdefault(table, line)
                self._tables[table] = self._tables.get(table, -1) + 1
            if table in self._tables:
                table = (*table, self._tables[table])
            self.lines.setdefault(table, line)
        return table

    def _assignment(self, table: Path) -> None:
        line = self._here()
        path = table
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.at = self.text.index("=", self.at) + 1
        self._value(path)

    def _keys(self) -> list[str]:
        """A dotted key; leaves `at` behind it and the spaces that follow."""
        keys = []
        while True:
            self.at = self._end(_SPACES)
            if self.text[self.at] in "\"'":
                keys.append(self._string())
            else:
                start, self.at = self.at, self._end(_BARE)
                keys.append(self.text[start : self.at])
            self.at = self._end(_SPACES)
            if self.at >= len(self.text) or self.text[self.at] != ".":
                return keys
            self.at += 1

    def _value(self, path: Path) -> None:
        self.at = self._end(_SPACES)
        first = self.text[self.at]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in "\"'":
            self._string()
        else:
            self.at = self._end(_PLAIN)

    def _array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while self._blank() and self.text[self.at] != "]":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.lines[(*path, index)] = self._here()
            self._value((*path, index))
            index += 1
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        while self._blank() and self.text[self.at] != "}":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._assignment(path)
        self.at += 1

    def _string(self) -> str:
        start, self.at = self.at, self._end(_STRING)
        raw = self.text[start : self.at]
        if raw.startswith('"'):
            return _ESCAPE.sub(lambda m: _ESCAPED[m[3]] if m[3] else chr(int(m[1] or m[2], 16)), raw[1:-1])
        return raw[1:-1]

    def _blank(self) -> bool:
        self.at = self._end(_BLANK)
        return self.at < len(self.text)

    def _end(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.at)
        if found is None:  # tomllib and this walk disagree: better no lines than wrong ones
            raise ValueError(f"cannot follow the text at offset {self.at}")
        return found.end()

    def _here(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line
