"""pyproject.toml: what a project needs, and where its own code is. Pure.

Only what stands in the file is read (the pyproject.toml specification, [project]); no build backend is ever run: what
they compute (`dynamic`) is refused with a word, and the project's own code is used as it lies there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from packaging.utils import canonicalize_name, canonicalize_version

from fildes.manifest.problems import did_you_mean
from fildes.publish import environment, requirements
from fildes.publish.names import Rejected, shown
from fildes.publish.toml import File

NAME: Final = "pyproject.toml"
MAX_ENTRY_POINTS: Final = 16 << 10  # bytes, written out

_GROUP: Final = re.compile(r"[\w.-]{1,100}", re.ASCII)
_POINT: Final = re.compile(r"[\w.:\[\], -]{1,300}", re.ASCII)
_PATH: Final = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*){0,7}", re.ASCII)
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}", re.ASCII)

Line = tuple[str, str]  # a requirement, the extra that it is of or ""


@dataclass(frozen=True)
class Project:
    """`lines` are its dependencies with those of the extras that were asked for. `listed`: it has a [project] table.
    `roots` are folders that its packages lie in, where that is not the top one; `metadata`, for importlib.metadata,
    is path → text below the folder of installed packages. `words`: what was passed over, for people."""

    name: str = ""
    listed: bool = False
    lines: tuple[Line, ...] = ()
    roots: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()

    @property
    def plain(self) -> tuple[str, ...]:
        """The requirements, to be resolved: what is of an extra carries no marker for it."""
        return tuple(line for line, _ in self.lines)


def read(content: bytes, extras: Collection[str], folders: Collection[str], *, other: str = "") -> Project:
    """`folders`: the paths of the upload's folders. `other`: the file that says the dependencies, if another one does.

    Raises Rejected with file and line.
    """
    file = File(content, NAME)
    name = file.get(str, "project", "name") or ""
    if name and not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", name, re.ASCII):
        raise Rejected(f"{file.where('project', 'name')}: {shown(name[:80])}: not a project's name")
    dynamic = file.strings("project", "dynamic")
    lines: tuple[Line, ...] = ()
    words: list[str] = []
    listed = "project" in file.tree
    if not other:
        lines = _lines(file, name, dynamic, extras)
        words = _passed_over(file, lines)
        if not listed and file.table("tool", "poetry", "dependencies").keys() - {"python"}:
            raise Rejected(
                f"{file.where('tool', 'poetry', 'dependencies')}: Poetry's own tables are not read; write the "
                "dependencies under [project], or give a lock along: poetry export -o requirements.txt"
            )
        versions = file.get(str, "project", "requires-python")
        if versions:
            environment.python_fits(versions, file.where("project", "requires-python"))
    return Project(
        name=name,
        listed=listed,
        lines=lines,
        roots=_roots(file, folders),
        metadata=_metadata(file, name),
        words=tuple(words),
    )


def direct(content: bytes) -> tuple[Line, ...]:
    """[project] dependencies alone, () where a build would have to say. Raises Rejected."""
    file = File(content, NAME)
    if "dependencies" in file.strings("project", "dynamic"):
        return ()
    texts = file.strings("project", "dependencies")
    return tuple((requirements.one(text, file.where("project", "dependencies", n)), "") for n, text in enumerate(texts))


def _lines(file: File, name: str, dynamic: list[str], extras: Collection[str]) -> tuple[Line, ...]:
    for what in ("dependencies", "optional-dependencies"):
        if what in dynamic and (what == "dependencies" or extras):
            raise Rejected(
                f"{file.where('project', 'dynamic')}: {what} are dynamic, which only a build could tell, and nothing "
                f"is built here; write them under [project], or into a requirements.txt"
            )
    found: list[Line] = []
    for number, text in enumerate(file.strings("project", "dependencies")):
        where = file.where("project", "dependencies", number)
        line = requirements.one(text, where)
        environment.parse(line, where)
        found.append((line, ""))
    known = {canonicalize_name(extra): extra for extra in file.table("project", "optional-dependencies")}
    todo, done = list(extras), set()
    while todo:
        extra = canonicalize_name(todo.pop(0))
        if extra in done:
            continue
        done.add(extra)
        if extra not in known:
            hint = did_you_mean(extra, known) or (f"there are: {', '.join(sorted(known))}" if known else "it has none")
            raise Rejected(f'fildes.toml: extras: {NAME} has no extra "{shown(extra)}"; {hint}')
        path = ("project", "optional-dependencies", known[extra])
        for number, text in enumerate(file.strings(*path)):
            where = file.where(*path, number)
            line = requirements.one(text, where)
            requirement = environment.parse(line, where)
            if name and canonicalize_name(requirement.name) == canonicalize_name(name):
                todo += sorted(requirement.extras)  # all = ["shop[pdf,mail]"]
            else:
                found.append((line, extra))
    return tuple(found)


def _passed_over(file: File, lines: tuple[Line, ...]) -> list[str]:
    """What [tool.uv] says about where packages come from. Raises Rejected where another package would be taken."""
    needed = {canonicalize_name(environment.parse(line, NAME).name) for line, _ in lines}
    for name in file.table("tool", "uv", "sources"):
        source = file.tree["tool"]["uv"]["sources"][name]
        if canonicalize_name(name) in needed and not (isinstance(source, dict) and set(source) <= {"index", "marker"}):
            raise Rejected(
                f"{file.where('tool', 'uv', 'sources', name)}: {shown(name)} comes from elsewhere there, and packages "
                "come from the node's index only; put its folder into yours, or name a version of the index"
            )
    ignored = sorted(
        set(file.table("tool", "uv")) & {"index", "index-url", "extra-index-url", "find-links", "override-dependencies",
                                         "constraint-dependencies", "sources"}
    )  # fmt: skip
    return [f"[tool.uv] {', '.join(ignored)} not read: the node's own index is asked"] if ignored else []


def _roots(file: File, folders: Collection[str]) -> tuple[str, ...]:
    """Folders in which top-level packages lie, as the usual build backends are told of them; "src" without a word."""
    if "project" not in file.tree and "build-system" not in file.tree and "poetry" not in file.table("tool"):
        return ()
    told: list[Any] = ["src"]
    told += _some(file, "tool", "setuptools", "packages", "find", "where")
    told += _some(file, "tool", "setuptools", "package-dir", "")
    told += _some(file, "tool", "uv", "build-backend", "module-root")
    told += _some(file, "tool", "pdm", "build", "package-dir")
    told += [
        path.rpartition("/")[0]
        for path in _some(file, "tool", "hatch", "build", "targets", "wheel", "packages")
        if isinstance(path, str)
    ]
    told += [row.get("from") for row in _some(file, "tool", "poetry", "packages") if isinstance(row, dict)]
    found = []
    for path in (path.removeprefix("./").strip("/") for path in told if isinstance(path, str)):
        if _PATH.fullmatch(path) and path in folders and path not in found:
            found.append(path)
    return tuple(found)


def _some(file: File, *path: str) -> list[Any]:
    """What is there, as a list; a backend's own tables are not ours to judge."""
    value: Any = file.tree
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, list) else [] if value is None else [value]


def _metadata(file: File, name: str) -> tuple[tuple[str, str], ...]:
    """What an installation would have written, so that the program finds its own version and entry points."""
    if not name or ("build-system" not in file.tree and file.table("tool", "uv").get("package") is not True):
        return ()
    version = file.get(str, "project", "version") or "0"
    if not _VERSION.fullmatch(version):
        raise Rejected(f"{file.where('project', 'version')}: {shown(version[:80])}: not a version")
    groups = dict(file.table("project", "entry-points"))
    for group, key in (("console_scripts", "scripts"), ("gui_scripts", "gui-scripts")):
        if file.table("project", key):
            groups[group] = file.table("project", key)
    text = ""
    for group, points in groups.items():
        path = ("project", "entry-points", group)
        if not _GROUP.fullmatch(group) or not isinstance(points, dict):
            raise Rejected(f"{file.where(*path)}: {shown(group[:80])}: not a group of entry points")
        text += f"[{group}]\n"
        for point, target in points.items():
            if not isinstance(target, str) or not _POINT.fullmatch(point) or not _POINT.fullmatch(target):
                raise Rejected(f"{file.where(*path, point)}: {shown(point[:80])}: not an entry point")
            text += f"{point} = {target}\n"
    if len(text) > MAX_ENTRY_POINTS:
        raise Rejected(f"{file.where('project', 'entry-points')}: more than {MAX_ENTRY_POINTS} bytes of entry points")
    normal = canonicalize_name(name).replace("-", "_")
    folder = f"{normal}-{canonicalize_version(version, strip_trailing_zero=False)}.dist-info"
    files = [(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")]
    return (*files, (f"{folder}/entry_points.txt", text)) if text else tuple(files)
