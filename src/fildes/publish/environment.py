"""This node's interpreter as markers see it (PEP 508), and requirements that apply on it. Pure after `load_ahead`.

`packaging` is the reference for versions, specifiers and markers; what it is given has passed `requirements.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from fildes.publish.names import Rejected, shown

_BAD: Final = (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, InvalidVersion, RecursionError)


class Wanted(NamedTuple):
    """A requirement, comparable: normalised name, its versions, its extras."""

    name: str
    versions: str
    extras: tuple[str, ...]

    def __str__(self) -> str:
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}{self.versions}"


@functools.cache
def here() -> Mapping[str, str]:
    """The markers' variables of this interpreter. Asked once at the start: a confined process could not."""
    return {name: str(value) for name, value in default_environment().items()}


def python() -> str:
    """ "3.13"."""
    return here()["python_version"]


def applies(marker: str | None, where: str, extra: str = "", sets: Mapping[str, Set[str]] | None = None) -> bool:
    """Is `marker` true here? `sets`: of a pylock.toml, extras and dependency_groups (PEP 751). Raises Rejected."""
    if not marker:
        return True
    try:
        if sets is not None:
            return Marker(marker).evaluate({**here(), **sets}, context="lock_file")
        return Marker(marker).evaluate({**here(), "extra": extra})
    except _BAD as error:
        raise Rejected(f"{where}: {shown(marker[:80])} is not a marker: {_first(error)}") from error


def parse(line: str, where: str) -> Requirement:
    """Raises Rejected."""
    try:
        return Requirement(line)
    except (InvalidRequirement, RecursionError) as error:
        raise Rejected(f"{where}: {shown(line[:80])} is not a requirement: {_first(error)}") from error


def effective(lines: Iterable[tuple[str, str]], where: str) -> set[Wanted]:
    """Those of the requirements, (line, extra that it is of or ""), that apply here. Raises Rejected."""
    found = set()
    for line, extra in lines:
        requirement = parse(line, where)
        if requirement.marker is None or applies(str(requirement.marker), where, extra):
            found.add(wanted(requirement))
    return found


def wanted(requirement: Requirement) -> Wanted:
    extras = sorted(canonicalize_name(extra) for extra in requirement.extras)
    return Wanted(canonicalize_name(requirement.name), str(requirement.specifier), tuple(extras))


def python_fits(versions: str, where: str) -> None:
    """Raises Rejected unless requires-python `versions` takes this interpreter."""
    try:
        fits = SpecifierSet(versions).contains(here()["python_full_version"], prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as error:
        raise Rejected(f"{where}: {shown(versions[:80])}: expected versions of Python, such as >=3.11") from error
    if not fits:
        raise Rejected(
            f"{where}: Python {shown(versions[:80])} is wanted, and this node's is {here()['python_full_version']}; "
            "change that line, or publish to a node with another Python"
        )


def missing(wants: Iterable[Wanted], pins: Sequence[tuple[str, str]]) -> str:
    """The first of `wants` that the pinned (name, version)s do not satisfy, in words; "" if they do."""
    versions: dict[str, str] = {canonicalize_name(name): version for name, version in pins}
    for want in sorted(wants):
        version = versions.get(want.name)
        if version is None:
            return f"{want} is not in it"
        try:
            if not SpecifierSet(want.versions).contains(Version(version), prereleases=True):
                return f"{want.name} {version} is in it, and {want} is wanted"
        except (InvalidVersion, InvalidSpecifier):
            return f"{want.name} {shown(version)} is in it, which is no version"
    return ""


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown((lines or [type(error).__name__])[0][:120])
