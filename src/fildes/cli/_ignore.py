"""Ignore files: .gitignore and .fildesignore (gitignore(5)), .dockerignore (its own rules). Pure.

    rules = Rules()
    rules.read(".gitignore", "", content)      # content of the folder ""'s file
    rules.names("dist/app.js", directory=False)  → the file that leaves it out, or None

The last pattern that matches decides; what lies in a folder that is left out is left out with it.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

MAX_BYTES: Final = 1 << 20
MAX_PATTERN: Final = 1024


class _Rule(NamedTuple):
    file: str
    pattern: re.Pattern[str]
    negated: bool
    directories: bool  # it speaks of directories only


class Rules:
    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    def __bool__(self) -> bool:
        return bool(self._rules)

    def read(self, name: str, folder: str, content: bytes) -> None:
        """Add the patterns of the ignore file `name` that lies in `folder` ("" is the top). Later ones come first."""
        docker = name == ".dockerignore"
        # git matches bytes: "?" is one of them, not a letter. Latin-1 has a character for each.
        for raw in content[:MAX_BYTES].removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n"):
            line = raw.strip() if docker else _stripped(raw.rstrip("\r"))
            if not line or line.startswith("#") or len(line) > MAX_PATTERN:
                continue
            negated = line.startswith("!")
            line = line[1:] if negated else line.removeprefix("\\") if line.startswith(("\\#", "\\!")) else line
            if docker:
                line = line.strip()
            directories = line.endswith("/")
            line = line.rstrip("/") if not docker else line.strip("/")
            anchored = docker or "/" in line
            line = line.lstrip("/")
            if not line:
                continue
            expression = _expression(line)
            if expression is None:
                continue
            prefix = re.escape(f"{_bytes(folder)}/") if folder else ""
            anywhere = "" if anchored else "(?:[^/]+/)*"
            below = "(?:/.+)?" if docker else ""
            whole = re.compile(f"{prefix}{anywhere}{expression}{below}", re.DOTALL)
            self._rules.append(
                _Rule(f"{folder}/{name}" if folder else name, whole, negated, directories and not docker)
            )

    def names(self, path: str, *, directory: bool) -> str | None:
        """The ignore file that leaves `path` out. Asked of a folder before what is in it."""
        name = _bytes(path)
        for rule in reversed(self._rules):
            if (directory or not rule.directories) and rule.pattern.fullmatch(name):
                return None if rule.negated else rule.file
        return None

    def may_return(self, by: str) -> bool:
        """Could something come back that lies below a folder which the file `by` leaves out? .dockerignore's may."""
        return by == ".dockerignore" and any(rule.negated and rule.file == by for rule in self._rules)

    def copy(self) -> Rules:
        other = Rules()
        other._rules = self._rules[:]
        return other


def _bytes(path: str) -> str:
    return path if path.isascii() else os.fsencode(path).decode("latin-1")


def _stripped(line: str) -> str:
    """Without blanks at the end, unless one is quoted by a backslash."""
    bare = line.rstrip(" \t")
    if bare.endswith("\\") and len(bare) < len(line) and (len(bare) - len(bare.rstrip("\\"))) % 2:
        return bare + line[len(bare)]
    return bare


def _expression(pattern: str) -> str | None:
    """A pattern with slashes as a regular expression; None if it can match nothing (a backslash at the end)."""
    out = ""
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "*":
            stars = len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            begins = at == 0 or pattern[at - 1] == "/"
            after = pattern[at + stars : at + stars + 1]
            if stars == 2 and begins and after == "/":
                out += "(?:[^/]+/)*"
                at += 3
                continue
            if stars == 2 and begins and after == "":
                out += ".+" if at else ".*"
                at += 2
                continue
            out += "[^/]*"
            at += stars
        elif letter == "?":
            out += "[^/]"
            at += 1
        elif letter == "[":
            found = _bracket(pattern, at)
            if found is None:
                return None
            text, at = found
            out += text
        elif letter == "\\":
            if at + 1 == len(pattern):
                return None
            out += re.escape(pattern[at + 1])
            at += 2
        else:
            out += re.escape(letter)
            at += 1
    return out


_CLASSES: Final = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z", "space": r" \t\n\r\f\v",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"), "xdigit": "0-9A-Fa-f", "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f", "print": r"\x20-\x7e", "graph": r"\x21-\x7e",
}  # fmt: skip


def _bracket(pattern: str, start: int) -> tuple[str, int] | None:
    """ "[a-z]" as an expression that matches no slash, and where it ends; None if it has no end (nothing matches)."""
    at = start + 1
    negated = pattern[at : at + 1] in ("!", "^") and at < len(pattern)
    at += negated
    inside, first = "", True
    while at < len(pattern) and (pattern[at] != "]" or first):
        first = False
        if pattern.startswith("[:", at):
            end = pattern.find(":]", at)
            name = pattern[at + 2 : end] if end > 0 else ""
            if name in _CLASSES:
                inside += _CLASSES[name]
                at = end + 2
                continue
            if end > 0:
                return None
        low, at = _letter(pattern, at)
        if pattern[at : at + 1] == "-" and at + 1 < len(pattern) and pattern[at + 1] != "]":
            high, at = _letter(pattern, at + 1)
            if low <= high:
                inside += f"{re.escape(low)}-{re.escape(high)}"
        else:
            inside += re.escape(low)
    if at >= len(pattern):
        return None
    if not inside:
        return ("[^/]" if negated else "(?!)"), at + 1
    return f"(?!/)[{'^' if negated else ''}{inside}]", at + 1


def _letter(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at] == "\\" and at + 1 < len(pattern):
        return pattern[at + 1], at + 2
    return pattern[at], at + 1
