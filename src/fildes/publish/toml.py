"""TOML files of an upload, taken apart with care: every value is of the type that is asked for, or refused by line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from fildes.manifest import places
from fildes.publish.names import Rejected, shown

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 32

_NAMED: Final = {str: "a string", list: "a list", dict: "a table", int: "a whole number", bool: "true or false"}

T = TypeVar("T")


class File:
    """`tree` as tomllib reads it. Raises Rejected for what is no TOML."""

    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        if len(content) > MAX_BYTES:
            raise Rejected(f"{name}: {len(content)} bytes; at most {MAX_BYTES} are allowed")
        try:
            self.text = content.decode()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise Rejected(f"{name}:{line}: not UTF-8; save the file as UTF-8") from error
        try:
            self.tree: dict[str, Any] = tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:  # TOMLDecodeError among them
            raise Rejected(f"{name}: is not TOML: {shown(str(error)[:200])}") from error
        self._lines: dict[places.Path, int] | None = None

    def where(self, *path: str | int) -> str:
        """ "pyproject.toml:7", for an error's begin; the file alone where the line can't be told."""
        if self._lines is None:
            try:
                self._lines = places.find(self.text)
            except (ValueError, LookupError, RecursionError):
                self._lines = {}
        for end in range(len(path), 0, -1):
            if path[:end] in self._lines:
                return f"{self.name}:{self._lines[path[:end]]}"
        return self.name

    def get(self, sort: type[T], *path: str) -> T | None:
        """The value there, None if there is none. Raises Rejected if it is of another type."""
        value: Any = self.tree
        for at, key in enumerate(path):
            if not isinstance(value, dict):
                raise Rejected(f"{self.where(*path[:at])}: {'.'.join(path[:at])}: expected a table")
            if key not in value:
                return None
            value = value[key]
        if not isinstance(value, sort) or (sort is int and isinstance(value, bool)):
            raise Rejected(f"{self.where(*path)}: {shown('.'.join(path))}: expected {_NAMED[sort]}")
        return value

    def table(self, *path: str) -> dict[str, Any]:
        return self.get(dict, *path) or {}

    def strings(self, *path: str) -> list[str]:
        """A list of strings, [] if there is none."""
        value = self.get(list, *path) or []
        for number, item in enumerate(value):
            if not isinstance(item, str):
                raise Rejected(f"{self.where(*path, number)}: {shown('.'.join(path))}: expected strings in the list")
        return value

    def tables(self, *path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where, table) for each element of an array of tables."""
        for number, item in enumerate(self.get(list, *path) or []):
            if not isinstance(item, dict):
                raise Rejected(f"{self.where(*path, number)}: {shown('.'.join(path))}: expected tables in the list")
            yield f"{self.name}: {'.'.join(path)} {number + 1}", item


def text(table: dict[str, Any], key: str, where: str, default: str | None = "") -> str:
    """A string of a table; `default` None: it must be there. Raises Rejected."""
    value = table.get(key, default)
    if not isinstance(value, str):
        raise Rejected(f"{where}: {key}: expected a string")
    return value


def rows(table: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """A list of tables in a table, [] if it is not there. Raises Rejected."""
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Rejected(f"{where}: {key}: expected a list of tables")
    return value
