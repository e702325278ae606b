"""What is wrong with a manifest, said so that it can be put right without looking anything up."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from msgspec import Struct

MOST_SHOWN = 50


class Problem(Struct, frozen=True):
    """`line` counts from 1; 0 where there is none to point at. `hint` is what to do, or ""."""

    line: int
    text: str
    hint: str = ""

    def show(self, filename: str) -> str:
        where = f"{filename}:{self.line}" if self.line else filename
        return f"{where}: {self.text}" + (f"; {self.hint}" if self.hint else "")


def show_all(filename: str, problems: Iterable[Problem]) -> str:
    """One line each, in the order of the file."""
    lines = [p.show(filename) for p in sorted(problems, key=lambda p: p.line)]
    more = len(lines) - MOST_SHOWN
    return "\n".join(lines[:MOST_SHOWN] + ([f"{filename}: and {more} more"] if more > 0 else []))


class ManifestError(ValueError):
    """A manifest that cannot be taken. `problems` holds all that was found."""

    def __init__(self, filename: str, problems: list[Problem]) -> None:
        super().__init__(show_all(filename, problems))
        self.filename = filename
        self.problems = sorted(problems, key=lambda p: p.line)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint, or "" when nothing known resembles `word`."""
    near = difflib.get_close_matches(word[:80].lower(), list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


def quote(value: object) -> str:
    """`value` as it could stand in the file, cut to what a line can hold, control characters escaped."""
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    shown = shown.encode("unicode_escape").decode() if not shown.isprintable() else shown
    return shown if len(shown) <= 80 else shown[:76] + "…" + shown[-1]


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)
