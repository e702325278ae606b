"""fildes.toml → Manifest, or every problem in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

import msgspec

from fildes.capabilities.kind import Kind
from fildes.capabilities.kinds import DECLARED, together
from fildes.manifest import places, words
from fildes.manifest.problems import ManifestError, Problem, did_you_mean, listed, quote
from fildes.manifest.words import Wrong
from fildes.wire.catalogue import Grant, Limits, Manifest, Runtime

RUNTIMES: Final = ("asgi", "wsgi", "function", "service", "static")
MAX_FILE: Final = 64 << 10
MAX_MANIFEST: Final = 32 << 10  # bytes of msgpack: a release and its delta must fit one datagram

_TOP = ("name", "runtime", "entry", "hosts", "on_release", "health", "extras", "env", "grants", "limits", "offers")
_SIZES = {"memory": words.MEMORY, "body": words.BODY, "log": words.LOG}
_NUMBERS = {"cpu": words.CPU, "timeout": words.TIMEOUT}
_COUNTS = {"tasks": 1, "concurrency": 1, "instances": 1, "spares": 0, "connections": 1}
_LIMITS = (*_SIZES, *_NUMBERS, *_COUNTS)
_USUAL = {"asgi": "main:app", "wsgi": "main:app", "function": "main:handle", "service": "main:main"}
_FRAMEWORKS = {
    word: f'{word} is runtime = "{runtime}"'
    for runtime, known in (("wsgi", "flask django bottle falcon"), ("asgi", "fastapi starlette quart litestar"))
    for word in known.split()
}
_NAMED = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}
_SORTS: dict[type, str] = {
    bool: "the truth value",
    int: "the number",
    float: "the number",
    str: "the string",
    list: "the list",
    dict: "the table",
}
_SYNTAX = re.compile(r"^(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)

T = TypeVar("T")


def read(data: bytes, filename: str = "fildes.toml", kinds: Mapping[str, Kind] = DECLARED) -> Manifest:
    """The manifest in `data`. Raises ManifestError, and nothing else, with all that is wrong."""
    tree, lines = _parse(data, filename)
    reader = _Reader(tree, lines, kinds)
    manifest = reader.manifest(filename)
    if not reader.problems and len(msgspec.msgpack.encode(manifest)) > MAX_MANIFEST:
        reader.problems.append(Problem(0, f"says too much: more than {MAX_MANIFEST} bytes when packed"))
    if reader.problems:
        raise ManifestError(filename, reader.problems)
    return manifest


def _parse(data: bytes, filename: str) -> tuple[dict[str, Any], dict[places.Path, int]]:
    def refuse(line: int, text: str, hint: str = "") -> ManifestError:
        return ManifestError(filename, [Problem(line, text, hint)])

    if len(data) > MAX_FILE:
        raise refuse(0, f"is {len(data)} bytes long; a manifest may have {MAX_FILE}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse(line, f"byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _SYNTAX.match(str(error))
        if found is None:
            raise refuse(0, f"is not TOML: {error}") from error
        line = int(found[2] or text.rstrip().count("\n") + 1)
        column = f" (column {found[3]})" if found[3] else ""
        raise refuse(line, f"is not TOML: {found[1][:1].lower()}{found[1][1:]}{column}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, arrays in arrays in …
        raise refuse(0, f"is not TOML that can be read: {type(error).__name__}: {error}") from error
    try:
        return tree, places.find(text)
    except (ValueError, LookupError, RecursionError):
        return tree, {}


class _Reader:
    """Takes the tree apart key by key; what is wrong is noted, and reading goes on."""

    def __init__(self, tree: dict[str, Any], lines: dict[places.Path, int], kinds: Mapping[str, Kind]) -> None:
        self.tree, self.lines, self.kinds = tree, lines, kinds
        self.problems: list[Problem] = []

    def manifest(self, filename: str) -> Manifest:
        self._only_known((), self.tree, _TOP)
        name = self._word(("name",), words.service, required='the service\'s name, such as name = "guestbook"')
        runtime = self._runtime()
        entry = self._entry(runtime)
        hosts = self._words(("hosts",), words.route)
        grants = [g for g in (self._grant(n) for n in self._table(("grants",))) if g is not None]
        for place, text in together([(grant.name, grant.kind, grant.options) for grant in grants]):
            self._wrong(("grants", place), text)
        offers = self._offers()
        limits = self._limits()
        env = self._env()
        on_release = self._commands(runtime)
        health = self._health(runtime)
        extras = self._words(("extras",), words.extra)
        if "hosts" not in self.tree and runtime != "service" and (runtime == "static" or not offers):
            hosts = [f"{name}.localhost"]
        elif not self.problems:
            self._reachable(name, runtime, hosts, offers)
        return Manifest(
            name=name,
            runtime=cast(Runtime, runtime),
            entry=entry,
            hosts=hosts,
            env=env,
            grants=grants,
            limits=limits,
            offers=offers,
            on_release=on_release,
            health=health,
            extras=extras,
            filename=filename,
            lines={".".join(map(str, path)): line for path, line in self.lines.items() if path[0] != "env"},
        )

    # — the parts —

    def _runtime(self) -> str:
        runtime = self._word(("runtime",), str, required=f"one of: {listed(RUNTIMES)}")
        if runtime and runtime not in RUNTIMES:
            self._wrong(
                ("runtime",),
                f"unknown runtime {quote(runtime)}; known are {listed(RUNTIMES)}",
                _FRAMEWORKS.get(runtime.lower()) or did_you_mean(runtime, RUNTIMES),
            )
        return runtime

    def _entry(self, runtime: str) -> str:
        entry = self._word(("entry",), str)
        if runtime == "static" and "entry" in self.tree:
            self._wrong(("entry",), "a static service has no entry: its files are served as they are", "leave it out")
        if runtime not in _USUAL:
            return entry
        usual = _USUAL[runtime]
        if "entry" not in self.tree:
            self._wrong((), "entry is missing; expected what to run", f'such as entry = "{usual}"')
        elif entry and not words.ENTRY.fullmatch(entry):
            stem = f"{entry.removesuffix('.py').replace('/', '.')}:{usual.partition(':')[2]}"
            hint = f'did you mean "{stem}"?' if words.ENTRY.fullmatch(stem) else ""
            self._wrong(("entry",), f'{quote(entry)}: expected "module:object", such as "{usual}"', hint)
        elif isinstance(self.tree["entry"], str) and not entry:
            self._wrong(("entry",), f'is empty; expected "module:object", such as "{usual}"')
        return entry

    def _commands(self, runtime: str) -> list[str]:
        if runtime == "static" and "on_release" in self.tree:
            self._wrong(("on_release",), "a static service runs no commands", "leave it out")
            return []
        return self._words(("on_release",), words.command)

    def _health(self, runtime: str) -> str:
        if runtime in ("static", "service") and "health" in self.tree:
            self._wrong(("health",), f"a {runtime} service has no program that answers requests", "leave it out")
            return ""
        return self._word(("health",), words.health)

    def _grant(self, name: str) -> Grant | None:
        path = ("grants", name)
        table = self._get(path, dict)
        if not words.GRANT.fullmatch(name):
            expected = "lower-case letters, digits, '_' and '-', at most 63, a letter first"
            self._wrong(path, f"{quote(name)} is not a grant's name: {expected}")
            return None
        if table is None:
            return None
        kind = self._word((*path, "kind"), str) if "kind" in table else name
        if kind not in self.kinds:
            if "kind" not in table or isinstance(table["kind"], str):
                at = (*path, "kind") if "kind" in table else path
                hint = did_you_mean(kind, self.kinds) or "write it as kind = …"
                self._wrong(at, f"unknown kind {quote(kind)}; known are {listed(sorted(self.kinds))}", hint)
            return None
        options = self.kinds[kind].options
        self._only_known(path, table, ("kind", *options))
        taken: dict[str, Any] = {}
        for option, (sort, required, meaning) in options.items():
            if option in table:
                value = self._get((*path, option), sort)
                if value is not None:
                    taken[option] = value
            elif required:
                self._wrong(path, f"a grant of kind {quote(kind)} needs {option}: {meaning}")
        for text in self.kinds[kind].check(taken):
            self._wrong(path, text)
        to = taken.pop("to", None)
        if isinstance(to, str):
            to = self._tried((*path, "to"), words.target, to)
        return Grant(name=name, kind=kind, to=to, options=taken)

    def _limits(self) -> Limits:
        table = self._table(("limits",))
        self._only_known(("limits",), table, _LIMITS)
        found: dict[str, Any] = {}
        for name, (least, most) in _SIZES.items():
            if name in table:
                size = self._tried(("limits", name), words.size, table[name])
                if size is not None and not least <= size <= most:
                    hint = f'did you mean "{size}MiB"?' if 8 <= size <= 1 << 20 else ""
                    text = f"{quote(size)} bytes: expected at least {words.written(least)}"
                    self._wrong(("limits", name), text, hint)
                found[name] = size
        for name, (low, high) in _NUMBERS.items():
            if name in table:
                number = self._get(("limits", name), float)
                if number is not None and not low <= number <= high:
                    unit, hint = words.MEANT[name]
                    self._wrong(("limits", name), f"{number:g}: expected {unit}, from {low:g} to {high:g}", hint)
                found[name] = number
        for name, fewest in _COUNTS.items():
            if name in table:
                count = self._get(("limits", name), int)
                if count is not None and not fewest <= count <= words.MOST:
                    self._wrong(("limits", name), f"{quote(count)}: expected a number from {fewest} to {words.MOST}")
                found[name] = count
        return Limits(**{k: v for k, v in found.items() if v is not None})

    def _env(self) -> dict[str, str]:
        env = {}
        for name in self._table(("env",)):
            value = self._get(("env", name), str)
            if not words.ENV.fullmatch(name):
                self._wrong(("env", name), f"{quote(name)} cannot be a variable's name: letters, digits and '_'")
            elif not words.env(name):
                self._wrong(("env", name), f"{name}: names that begin with FILDES_ or LD_ are not a program's to set")
            elif value is not None and "\0" in value:
                self._wrong(("env", name), "holds a zero byte, which no environment can carry")
            elif value is not None:
                env[name] = value
        return env

    def _offers(self) -> list[str]:
        table = self._table(("offers",))
        self._only_known(("offers",), table, ("to",))
        return self._words(("offers", "to"), words.offered)

    def _reachable(self, name: str, runtime: str, hosts: list[str], offers: list[str]) -> None:
        if runtime == "service" and hosts:
            text = "a service of this runtime answers no HTTP"
            self._wrong(("hosts",), text, 'leave hosts out, or write runtime = "asgi", "wsgi" or "function"')
        if hosts or runtime == "service" or (offers and runtime != "static"):
            return
        hint = f'write hosts = ["{name}.localhost"]'
        if runtime != "static":
            hint += ", or [offers] with the services that may connect"
        self._wrong(("hosts",), "nobody could reach this service: hosts is empty", hint)

    # — taking values —

    def _wrong(self, path: places.Path, text: str, hint: str = "") -> None:
        line = 0
        for end in range(len(path), 0, -1):
            line = line or self.lines.get(path[:end], 0)
        name = _shown(path)
        problem = Problem(line, f"{name}: {text}" if name and line else text, hint)
        if problem not in self.problems:
            self.problems.append(problem)

    def _only_known(self, path: places.Path, table: dict[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                text = f"unknown key {quote(key)}; known here are {listed(known)}"
                line = self.lines.get((*path, key), 0)
                self.problems.append(Problem(line, text, did_you_mean(key, known) or _elsewhere(path, key)))

    def _get(self, path: places.Path, sort: type[T]) -> T | None:
        """The value at `path` if it is there and of that type; a wrong type is noted."""
        value: Any = self.tree
        for key in path:
            value = value[key]
        try:
            return msgspec.convert(value, sort, strict=True)
        except msgspec.ValidationError:
            expected = _NAMED.get(sort, sort.__name__)
            hint = f'write "{value}"' if sort is str and isinstance(value, int | float) else ""
            if sort is list and isinstance(value, str):
                hint = f"write [{quote(value)}]"
            if sort in (int, float) and isinstance(value, str) and re.fullmatch(r"\d{1,18}(\.\d+)?", value, re.ASCII):
                hint = f"write {value} without the quotes"
            self._wrong(path, f"expected {expected}, got {_type_name(value)} {quote(value)}", hint)
            return None

    def _tried(self, path: places.Path, check: Callable[[Any], T], value: object) -> T | None:
        try:
            return check(value)
        except Wrong as wrong:
            self._wrong(path, wrong.text, wrong.hint)
            return None

    def _word(self, path: places.Path, check: Callable[[Any], str], required: str = "") -> str:
        if path[-1] not in (self.tree if len(path) == 1 else self._table(path[:-1])):
            if required:
                self._wrong((), f"{_shown(path)} is missing; expected {required}")
            return ""
        value = self._get(path, str)
        return "" if value is None else self._tried(path, check, value) or ""

    def _words(self, path: places.Path, check: Callable[[Any], str]) -> list[str]:
        """A list of strings, each checked; twice the same is a problem."""
        if path[-1] not in (self.tree if len(path) == 1 else self._table(path[:-1])):
            return []
        value = self._get(path, list)
        taken: list[str] = []
        for index, item in enumerate(value or ()):
            at = (*path, index)
            if not isinstance(item, str):
                self._wrong(at, f"expected a string, got {_type_name(item)} {quote(item)}")
                continue
            word = self._tried(at, check, item)
            if word in taken:
                self._wrong(at, f"{quote(word)} is listed twice", "leave one out")
            elif word is not None:
                taken.append(word)
        return taken

    def _table(self, path: places.Path) -> dict[str, Any]:
        value: Any = self.tree
        for key in path:
            value = value.get(key, {}) if isinstance(value, dict) else {}
        if isinstance(value, dict):
            return value
        self._get(path, dict)
        return {}


def _shown(path: places.Path) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def _type_name(value: object) -> str:
    return _SORTS.get(type(value), "the date or time")


def _elsewhere(path: places.Path, key: str) -> str:
    """A key that is known at another place of the file."""
    if key in _LIMITS:
        return "it belongs under [limits]"
    if path and key in _TOP:
        return "it belongs at the top, above the first [table]"
    return ""
