"""What of a folder says which packages it needs: the first that is there of a lock, requirements.txt, pyproject.toml.

    requirements.lock   must match requirements.txt or pyproject.toml, whichever the folder has
    pylock.toml         must have what pyproject.toml needs
    uv.lock             must be made for what pyproject.toml needs
    requirements.txt    a lock too, where every line is pinned and hashed
    pyproject.toml      [project] dependencies, with the extras that the manifest names

A lock is installed exactly as it is. Without one, what is needed is resolved, and the lock that comes of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from fildes.publish import environment, locks, project, requirements
from fildes.publish.lockfile import LOCK, stale
from fildes.publish.names import Rejected
from fildes.publish.project import Project

REQUIREMENTS: Final = "requirements.txt"


@dataclass(frozen=True)
class Dependencies:
    """`lines` are to be resolved, `lock` is to be installed as it is; at most one of them is not empty. `source` is the
    file that says so. `before`: lines of a lock whose versions are to stay
    where they can."""

    lines: tuple[str, ...] = ()
    lock: tuple[str, ...] = ()
    source: str = ""
    before: tuple[str, ...] = ()
    own: Project = field(default_factory=Project)
    words: tuple[str, ...] = ()


def find(
    read: Callable[[str], bytes | None],
    extras: Collection[str],
    folders: Collection[str],
    *,
    again: bool = False,
    upgrade: bool = False,
) -> Dependencies:
    """`read` gives a file of the upload, None if it is not there. `again`: a requirements.lock that does not match is
    made again. `upgrade`: newer versions are wanted. Raises Rejected."""
    listed = read(REQUIREMENTS)
    described = read(project.NAME)
    ours, standard, uvs = read(LOCK), read(locks.PYLOCK), read(locks.UV)
    if ours is not None and upgrade and again:
        ours = None
    by_list = listed is not None and uvs is None and standard is None
    own = Project()
    if described is not None:
        own = project.read(described, extras, folders, other=REQUIREMENTS if by_list else "")
    if extras and (described is None or by_list):
        because = f"{REQUIREMENTS} comes before it" if described is not None else "there is none"
        raise Rejected(
            f"fildes.toml: extras: they are those of {project.NAME}, and {because}; write what they need into "
            f"{REQUIREMENTS}, or leave extras out"
        )
    lines, source = own.plain, project.NAME
    if by_list and listed is not None:
        wanted = requirements.read(listed, REQUIREMENTS, requirements.MAX_LOCK)
        if wanted.locked and ours is None:
            _no_upgrade(upgrade, REQUIREMENTS)
            _has_what_is_listed(wanted.lines, described)
            return Dependencies(lock=wanted.lines, source=REQUIREMENTS, own=own)
        lines, source = wanted.lines, REQUIREMENTS
    if ours is not None:
        return _ours(ours, lines, source, own, again=again, upgrade=upgrade)
    if standard is not None:
        _no_upgrade(upgrade, locks.PYLOCK)
        pinned = locks.read_pylock(standard, own if own.listed else None, extras)
        return Dependencies(lock=pinned, source=locks.PYLOCK, own=own, words=own.words)
    if uvs is not None:
        _no_upgrade(upgrade, locks.UV)
        if not own.listed:
            raise Rejected(
                f"{locks.UV}: there is no {project.NAME} with a [project] beside it; publish both, or neither"
            )
        return Dependencies(lock=locks.read_uv(uvs, own, extras), source=locks.UV, own=own, words=own.words)
    return Dependencies(lines=lines, source=source if lines else "", own=own, words=own.words)


def _ours(
    ours: bytes, lines: tuple[str, ...], source: str, own: Project, *, again: bool, upgrade: bool
) -> Dependencies:
    pinned = requirements.read_lock(ours, LOCK).lines
    why = stale(ours, pinned, lines) if pinned and lines else ""
    if why and again:  # made again, with its versions where they still fit
        return Dependencies(lines=lines, source=source, before=pinned, own=own, words=own.words)
    if why:
        remedy = f"run: fildes publish DIR --lock, or remove {LOCK}"
        raise Rejected(f"{LOCK}: does not match {source}: {why}; {remedy}")
    _no_upgrade(upgrade, LOCK)
    if not pinned:
        return Dependencies(lines=lines, source=source if lines else "", own=own, words=own.words)
    return Dependencies(lock=pinned, source=LOCK, own=own, words=own.words)


def _has_what_is_listed(pinned: tuple[str, ...], described: bytes | None) -> None:
    """A requirements.txt that is a lock must have what the pyproject.toml beside it lists."""
    listed = project.direct(described) if described is not None else ()
    missing = environment.missing(environment.effective(listed, project.NAME), requirements.pins(pinned))
    if missing:
        raise Rejected(
            f"{REQUIREMENTS}: is a lock, and does not match {project.NAME}: {missing}; make it again, for example: "
            f"uv pip compile --generate-hashes {project.NAME} -o {REQUIREMENTS}"
        )


def _no_upgrade(upgrade: bool, name: str) -> None:
    if upgrade:
        remedy = {
            LOCK: "add --lock, and it is written anew",
            locks.UV: "run: uv lock --upgrade",
            locks.PYLOCK: "make it again with the tool that made it",
            REQUIREMENTS: "make it again with the tool that made it",
        }[name]
        raise Rejected(f"{name}: every version is pinned there, so --upgrade changes nothing; {remedy}")
