"""`_redirects`: a line each, `/from /to [status]`, as the hosts of static sites have it.

    /old            /new                        301, unless a status says otherwise
    /news/*         /blog/:splat        302
    /:year/feed     /feeds/:year.xml    200     answered with that file; the address stays
    /former         /gone.html          410
    /about          https://example.org/about   another host
    /app/*          /app/index.html     200!    "!": also where there is a file of that name

The first line that fits counts. Without "!" a file that exists goes first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from fildes.pages.lines import PagesError, Pattern, canonical, filled, names_in, read, wrong

FILE: Final = "_redirects"
MAX_RULES: Final = 2000
MAX_OPEN: Final = 100  # of them, with names or a star: those are tried one after another
MAX_TARGET: Final = 8192  # characters: a line may say a name, and so a client's words, many times
MOVED: Final = frozenset({301, 302, 303, 307, 308})
SERVED: Final = frozenset({200, 404, 410})
_BEHIND: Final = "/?#[]@!$&'()*+,;=:%-._~"  # of a URL, what stays as it was written


@dataclass(frozen=True, slots=True)
class Target:
    """`where` with status in MOVED is a Location, in the site's own terms or "https://…"; else a file's path."""

    status: int
    where: str


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: Pattern
    to: str
    status: int
    force: bool


class Redirects:
    """Raises PagesError for a line that can't be obeyed."""

    def __init__(self, data: bytes = b"") -> None:
        rules = [_rule(line, text) for line, text in read(data, FILE)]
        if len(rules) > MAX_RULES:
            raise PagesError(f"{FILE}: {len(rules)} lines; at most {MAX_RULES} are read")
        self._forced = [rule for rule in rules if rule.force]
        self._exact: dict[str, int] = {}
        self._open: list[tuple[int, _Rule]] = []
        self._rules = rules
        for number, rule in enumerate(rules):
            if rule.pattern.plain:
                self._exact.setdefault(rule.pattern.plain, number)
            else:
                self._open.append((number, rule))
        if len(self._open) > MAX_OPEN:
            raise PagesError(f"{FILE}: {len(self._open)} lines with ':name' or '*'; at most {MAX_OPEN} are read")

    def __len__(self) -> int:
        return len(self._rules)

    def forced(self, path: str) -> Target | None:
        """What goes before a file of that name. `path` as `lines.canonical` gives it."""
        return next((found for rule in self._forced if (found := _target(rule, path))), None)

    def find(self, path: str) -> Target | None:
        """What goes where there is no file."""
        exact = self._exact.get(path.rstrip("/") or "/", len(self._rules))
        for number, rule in self._open:
            if number > exact:
                break
            found = _target(rule, path)
            if found is not None:
                return found
        return _target(self._rules[exact], path) if exact < len(self._rules) else None


def _target(rule: _Rule, path: str) -> Target | None:
    values = rule.pattern.match(path)
    where = "" if values is None else filled(rule.to, values)
    return Target(rule.status, where) if 0 < len(where) <= MAX_TARGET else None


def _rule(line: int, text: str) -> _Rule:
    words = text.split()
    if len(words) not in (2, 3):
        what = "a line is: /from /to, and a status if need be"
        if any("=" in word for word in words[1:]):
            what += "; conditions on query, country, language or cookie are not known here"
        raise wrong(FILE, line, f"{len(words)} words: {what}")
    status, force = _status(line, words[2]) if len(words) == 3 else (301, False)
    try:
        pattern = Pattern(words[0])
    except ValueError as error:
        raise wrong(FILE, line, f"{words[0]}: {error}; the host is not a part of it") from error
    to = _to(line, words[1], status)
    unknown = names_in(_behind_host(words[1])) - set(pattern.names)
    if unknown:
        raise wrong(FILE, line, f"{words[1]}: {words[0]} has no :{min(unknown)}")
    return _Rule(pattern, to, status, force)


def _status(line: int, word: str) -> tuple[int, bool]:
    number = word.removesuffix("!")
    if not number.isascii() or not number.isdigit() or int(number) not in MOVED | SERVED:
        known = ", ".join(map(str, sorted(MOVED | SERVED)))
        raise wrong(FILE, line, f"{word}: expected one of {known}, with '!' behind it to go before a file")
    return int(number), word.endswith("!")


def _to(line: int, to: str, status: int) -> str:
    if to.startswith("/") and not to.startswith("//"):
        if status in SERVED:
            return canonical(to)
        path = re.split("[?#]", to, maxsplit=1)[0]
        return canonical(path) + quote(to[len(path) :], safe=_BEHIND)
    try:
        parts = urlsplit(to)
        good = parts.scheme in ("http", "https") and parts.hostname and not names_in(parts.netloc) and to.isascii()
    except ValueError:
        good = False
    if not good:
        raise wrong(FILE, line, f"{to}: expected a path that begins with one '/', or http:// or https:// and a host")
    if status in SERVED:
        text = f"{to}: with {status} a file of this site answers; to lead to another host write a status like 302"
        raise wrong(FILE, line, text)
    return quote(to, safe=_BEHIND)


def _behind_host(to: str) -> str:
    return to.partition("://")[2].partition("/")[2] if "://" in to else to
