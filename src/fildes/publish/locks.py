"""Locks of other tools → our own form, lines "name==version --hash=sha256:…". Pure.

uv.lock is uv's (version 1), pylock.toml is PEP 751's. Of both only what applies to this interpreter is taken, by name,
version and hashes; the addresses in them are not looked at, because packages come from the node's index.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from packaging.utils import canonicalize_name

from fildes.publish import environment, requirements
from fildes.publish.names import Rejected, shown
from fildes.publish.project import Project
from fildes.publish.toml import File, rows, text

UV: Final = "uv.lock"
PYLOCK: Final = "pylock.toml"
MAX_PACKAGES: Final = 5000
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ELSEWHERE: Final = "packages come from the node's index only; name a version of it, or put its folder into yours"

Table = Mapping[str, Any]


def read_uv(content: bytes, project: Project, extras: Collection[str]) -> tuple[str, ...]:
    """The lines of uv.lock for `project`. Raises Rejected, also if the lock was made for other dependencies."""
    file = File(content, UV)
    if file.get(int, "version") != 1:
        raise Rejected(f"{UV}: version {file.tree.get('version')!r:.40}, and this node reads 1; run: uv lock")
    packages: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for where, row in file.tables("package"):
        packages.setdefault(canonicalize_name(text(row, "name", where, None)), []).append((where, row))
    root = _root(packages, project)
    _must_match(root, project, extras)
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    todo = [(UV, root, canonicalize_name(extra)) for extra in ("", *extras)]
    seen: set[tuple[int, str]] = set()
    while todo:
        where, row, extra = todo.pop()
        if (id(row), extra) in seen:
            continue
        seen.add((id(row), extra))
        if row is not root and not extra:
            name, version = text(row, "name", where, None), text(row, "version", where)
            found[name, version] = _hashes(rows(row, "wheels", where), where, name)
        for dependency in _dependencies(row, extra, where):
            if environment.applies(text(dependency, "marker", where), where):
                at, target = _package(packages, dependency, where)
                if target is not root:
                    _from_an_index(target, at)
                names = dependency.get("extra", [])
                for further in ("", *(names if isinstance(names, list) else ())):
                    todo.append((at, target, canonicalize_name(str(further))))
    return _lines(found, UV)


def read_pylock(content: bytes, project: Project | None, extras: Collection[str]) -> tuple[str, ...]:
    """The lines of pylock.toml. Raises Rejected, also if it lacks what `project` needs."""
    file = File(content, PYLOCK)
    version = file.get(str, "lock-version") or ""
    if not re.fullmatch(r"1\.\d{1,4}", version):
        raise Rejected(f'{PYLOCK}: lock-version {shown(version[:40])!r}: this node reads "1.0" (PEP 751)')
    python = file.get(str, "requires-python")
    if python:
        environment.python_fits(python, file.where("requires-python"))
    groups = set(file.strings("default-groups"))
    sets = {"extras": frozenset(extras), "dependency_groups": frozenset(groups)}
    environments = file.strings("environments")
    if environments and not any(environment.applies(marker, PYLOCK, sets=sets) for marker in environments):
        raise Rejected(f"{file.where('environments')}: made for other interpreters or machines than this node's")
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for where, row in file.tables("packages"):
        name = text(row, "name", where, None)
        if not environment.applies(text(row, "marker", where), where, sets=sets) or _own(row, project):
            continue
        for elsewhere in ("vcs", "directory", "archive"):
            if elsewhere in row:
                raise Rejected(f"{where} ({shown(name[:80])}): is of kind {elsewhere}; {_ELSEWHERE}")
        found[name, text(row, "version", where)] = _hashes(rows(row, "wheels", where), where, name)
    lines = _lines(found, PYLOCK)
    if project is not None:
        missing = environment.missing(environment.effective(project.lines, "pyproject.toml"), list(found))
        if missing:
            raise Rejected(
                f"{PYLOCK}: does not fit pyproject.toml: {missing}; run: uv export --format pylock.toml -o {PYLOCK}"
            )
    return lines


# — uv.lock —


def _root(packages: Mapping[str, list[tuple[str, dict[str, Any]]]], project: Project) -> dict[str, Any]:
    for _, row in packages.get(canonicalize_name(project.name), ()):
        source = row.get("source")
        if isinstance(source, dict) and "." in (source.get("virtual"), source.get("editable"), source.get("directory")):
            return row
    raise Rejected(
        f"{UV}: does not speak of the project {shown(project.name)!r} of pyproject.toml beside it; run there: uv lock"
    )


def _must_match(root: Table, project: Project, extras: Collection[str]) -> None:
    """uv writes down what the lock was made for: the same must stand in pyproject.toml now."""
    metadata = root.get("metadata")
    made_for: list[tuple[str, str]] = []
    for row in rows(metadata if isinstance(metadata, dict) else {}, "requires-dist", UV):
        names = row.get("extras", [])
        listed = f"[{','.join(map(str, names))}]" if isinstance(names, list) and names else ""
        marker = text(row, "marker", UV)
        line = f"{text(row, 'name', UV, None)}{listed}{text(row, 'specifier', UV)}" + (f" ; {marker}" if marker else "")
        made_for += [(line, canonicalize_name(extra)) for extra in ("", *extras)]
    then = {want for want in environment.effective(made_for, UV) if want.name != canonicalize_name(project.name)}
    now = environment.effective(project.lines, "pyproject.toml")
    if then != now:
        more, gone = sorted(now - then), sorted(then - now)
        what = f"{more[0]} is not in it" if more else f"{gone[0]} is no longer wanted"
        raise Rejected(f"{UV}: was made for other dependencies than pyproject.toml has now ({what}); run: uv lock")


def _dependencies(row: Table, extra: str, where: str) -> Iterator[dict[str, Any]]:
    if not extra:
        yield from rows(dict(row), "dependencies", where)
        return
    optional = row.get("optional-dependencies", {})
    for name, listed in (optional if isinstance(optional, dict) else {}).items():
        if canonicalize_name(name) == extra:
            yield from rows({name: listed}, name, where)


def _package(
    packages: Mapping[str, list[tuple[str, dict[str, Any]]]], dependency: Table, where: str
) -> tuple[str, dict[str, Any]]:
    name = text(dict(dependency), "name", where, None)
    rows_of = packages.get(canonicalize_name(name), [])
    version = dependency.get("version")
    fitting = [(at, row) for at, row in rows_of if version is None or row.get("version") == version]
    if len(fitting) != 1:
        raise Rejected(f"{where}: {shown(name[:80])} is in the lock {len(fitting)} times; run: uv lock")
    return fitting[0]


def _from_an_index(row: Table, where: str) -> None:
    source = row.get("source")
    if not isinstance(source, dict) or set(source) != {"registry"}:
        kind = ", ".join(source) if isinstance(source, dict) else "nothing"
        raise Rejected(f"{where} ({shown(str(row.get('name'))[:80])}): comes from {shown(kind[:40])}; {_ELSEWHERE}")


# — both —


def _own(row: Table, project: Project | None) -> bool:
    """The project itself: its code is there as it is."""
    directory = row.get("directory")
    return (
        project is not None
        and isinstance(directory, dict)
        and directory.get("path") in (".", "./", "")
        and canonicalize_name(str(row.get("name"))) == canonicalize_name(project.name)
    )


def _hashes(wheels: list[dict[str, Any]], where: str, name: str) -> tuple[str, ...]:
    found = set()
    for wheel in wheels:
        value = wheel.get("hash")  # of uv.lock: "sha256:…"; of pylock.toml: hashes = {sha256 = "…"}
        if value is None and isinstance(wheel.get("hashes"), dict):
            value = f"sha256:{wheel['hashes'].get('sha256')}"
        if not isinstance(value, str) or not _HASH.fullmatch(value):
            raise Rejected(f"{where} ({shown(name[:80])}): a wheel without a sha256; lock again, with hashes")
        found.add(value)
    if not found:
        raise Rejected(
            f"{where} ({shown(name[:80])}): the lock has no wheel of it, and nothing is built here; "
            "choose a version that has one"
        )
    return tuple(sorted(found))


def _lines(found: Mapping[tuple[str, str], tuple[str, ...]], name: str) -> tuple[str, ...]:
    if len(found) > MAX_PACKAGES:
        raise Rejected(f"{name}: more than {MAX_PACKAGES} packages")
    made = "".join(
        f"{package}=={version} {' '.join(f'--hash={value}' for value in hashes)}\n"
        for (package, version), hashes in sorted(found.items())
    )
    # What stood in the lock is a stranger's text: it goes through the same gate as a requirements file.
    return requirements.read_lock(made.encode(), name, most=len(made) + 1).lines
