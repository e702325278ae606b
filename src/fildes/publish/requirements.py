"""What a requirements file of an upload may say. Pure.

An allow-list: names, extras, versions, markers and sha256 hashes. Everything by which pip or uv would read
another file, another index, a build backend or the environment is refused with its line number
(pip's requirements file format; PEP 508).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fildes.publish.names import Rejected, shown

MAX_BYTES: Final = 256 << 10
MAX_LOCK: Final = 2 << 20  # a package of many platforms has hundreds of hashes
_BOM: Final = b"\xef\xbb\xbf"

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
_EXTRAS: Final = rf"(?:\s*\[\s*(?:{_NAME}(?:\s*,\s*{_NAME})*)?\s*\])?"
_SPECIFIER: Final = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9_.*+!-]{1,64}"
_SPECIFIERS: Final = rf"(?:\s*\(?\s*{_SPECIFIER}(?:\s*,\s*{_SPECIFIER})*\s*,?\s*\)?)?"
_MARKER: Final = r"(?:\s*;\s*(?P<marker>[\w\s.'\"<>=!~(),+*-]{1,1024}?))?"
_HASHES: Final = r"(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})*)"
_LINE: Final = re.compile(rf"(?P<name>{_NAME}){_EXTRAS}(?P<versions>{_SPECIFIERS}){_MARKER}{_HASHES}\s*", re.ASCII)
_PINNED: Final = re.compile(r"\s*===?\s*[A-Za-z0-9_.+!-]+\s*")
_COMMENT: Final = re.compile(r"(^|\s+)#.*$")

_OPTIONS: Final = {
    "-r": "reads another file",
    "--requirement": "reads another file",
    "-c": "reads another file",
    "--constraint": "reads another file",
    "-e": "builds from source",
    "--editable": "builds from source",
    "-i": "names another package index",
    "--index-url": "names another package index",
    "--extra-index-url": "names another package index",
    "-f": "names another place for packages",
    "--find-links": "names another place for packages",
    "--trusted-host": "switches certificate checks off",
    "--no-binary": "asks for building from source",
}


@dataclass(frozen=True)
class Requirements:
    lines: tuple[str, ...]  # one requirement each, comments and continuations gone
    locked: bool  # every line is pinned to one version and has hashes


def read(content: bytes, name: str, most: int = MAX_BYTES) -> Requirements:
    """Check the bytes of the requirements file `name`, of `most` bytes. Raises Rejected with file and line."""
    if len(content) > most:
        raise Rejected(f"{name}: {len(content)} bytes; at most {most} are allowed")
    lines: list[str] = []
    locked = True
    for number, line in _logical(_text(content, name)):
        match = _LINE.fullmatch(line)
        if match is None:
            raise Rejected(f"{name}:{number}: {_reason(line)}")
        lines.append(line)
        locked = locked and bool(match["hashes"]) and _PINNED.fullmatch(match["versions"]) is not None
    return Requirements(tuple(lines), locked and bool(lines))


def read_lock(content: bytes, name: str, most: int = MAX_LOCK) -> Requirements:
    """The same for a lock: every line must be pinned (==) and carry a sha256 hash."""
    lock = read(content, name, most)
    if lock.lines and not lock.locked:
        for number, line in _logical(_text(content, name)):
            match = _LINE.fullmatch(line)
            if match is None or not match["hashes"] or _PINNED.fullmatch(match["versions"]) is None:
                raise Rejected(
                    f"{name}:{number}: {shown(line[:80])}: a lock needs '==' and --hash=sha256:… on every line; "
                    f"remove {name}, and it is made again"
                )
    return lock


def one(text: str, where: str) -> str:
    """One requirement out of another file, such as pyproject.toml. Raises Rejected that begins with `where`."""
    line = text.strip()
    match = _LINE.fullmatch(line) if "\n" not in line else None
    if match is None or match["hashes"]:
        raise Rejected(f"{where}: {_reason(line)}")
    return line


def pins(lines: tuple[str, ...]) -> list[tuple[str, str]]:
    """(name, version) of each line of a lock that `read_lock` took."""
    found = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is not None:
            found.append((match["name"], match["versions"].strip().lstrip("=").strip()))
    return found


def without_hashes(line: str) -> str:
    """A line of `read`'s as a requirement of PEP 508."""
    return line.partition("--hash=")[0].strip()


def _text(content: bytes, name: str) -> str:
    try:
        return content.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        at = content.count(b"\n", 0, error.start) + 1
        raise Rejected(f"{name}:{at}: not UTF-8; save the file as UTF-8") from error


def _logical(text: str) -> list[tuple[int, str]]:
    """(line number, line) with continuations joined and comments gone, empty ones left out."""
    found: list[tuple[int, str]] = []
    start, held = 0, ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = _COMMENT.sub("", raw.rstrip("\r"))
        if not held:
            start = number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        whole = (held + line).strip()
        held = ""
        if whole:
            found.append((start, whole))
    if held.strip():
        found.append((start, held.strip()))
    return found


def _reason(line: str) -> str:
    """Why a line is refused, and what to write instead."""
    said = shown(line[:120])
    if "${" in line:
        return f"{said}: values from the environment are not read here; write the value itself"
    first = re.split(r"[\s=]", line, maxsplit=1)[0]
    option = first if first.startswith("--") else first[:2]
    if line.startswith("-"):
        why = _OPTIONS.get(option, "is an option")
        return f"{said}: {first} {why}, which a published folder can't; list the packages by name and version"
    if "--hash" in line:
        return f"{said}: hashes are written --hash=sha256: and 64 hexadecimal digits"
    if "://" in line or " @ " in line or line.startswith("file:"):
        return f"{said}: packages come from the node's index only; write a name and a version instead of an address"
    if line.startswith((".", "/", "~")) or line.endswith((".whl", ".tar.gz", ".zip")):
        return f"{said}: files are not installed; put the package's folder into yours, or name a version of the index"
    return f"{said}: not a requirement; write it like: flask>=3.0,<4"
