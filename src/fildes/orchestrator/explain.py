"""A release's confinement in words, in the order of its steps. No I/O."""

from __future__ import annotations

from fildes.capabilities.files import grant as files
from fildes.capabilities.kinds import KINDS
from fildes.capabilities.sqlite import grant as sqlite
from fildes.orchestrator import scale
from fildes.orchestrator.launch import keeps_files, serve_profile
from fildes.sandbox.plan import Plan
from fildes.wire.catalogue import Grant, Limits, Release

_GIVEN = ("/dev/null", "its log pipe", "its release's conveyor", "a handle", "a channel to the bus", "two packs")


def limits(limits: Limits) -> str:
    return f"memory {limits.memory >> 20} MiB, cpu {limits.cpu:g}, {limits.tasks} tasks an instance"


def staff(release: Release) -> str:
    """How many instances there are, and when."""
    bounds = scale.bounds(release)
    if release.runtime == "service":
        return "serve: one instance, always, until: fildes stop"
    most = "one instance" if bounds.most == 1 else f"up to {bounds.most} instances"
    spares = f", {bounds.standing} of them without being asked" if bounds.standing else ""
    return f"serve: {most} while there are requests{spares}"


def steps(release: Release, plan: Plan) -> list[str]:
    """One line a step."""
    load = [f"load: {line}" for line in plan.describe()]
    return [*load, f"load: import {release.entry}", *_ratchet(release), *_serve(release)]


def _ratchet(release: Release) -> list[str]:
    return [
        "ratchet: every call for loading is refused from now on, one clone per ordered start excepted",
        "ratchet: processes that the program left running are killed",
        "ratchet: the view stays, by the grant files" if keeps_files(release) else "ratchet: every mount is detached",
    ]


def _serve(release: Release) -> list[str]:
    lines = [
        staff(release),
        f"serve: seccomp profile {serve_profile(release)} on top",
        *(f"serve: holds {name}" for name in _GIVEN),
    ]
    for grant in release.grants:
        kind = KINDS.get(grant.kind)
        when = "from its start" if kind is not None and kind.at_start else "when it asks"
        to = f" to {grant.to}" if grant.to else ""
        lines.append(f"serve: grant {grant.name}: {grant.kind}{to}{_where(grant)}, {when}")
    return lines


def _where(grant: Grant) -> str:
    if grant.kind == "sqlite":
        most = f"each of its files {sqlite.quota_of(grant.options):,} bytes at the most"
        access = "" if sqlite.writable(grant.options) else ", to be read"
        return f" at {sqlite.path_of(grant.name, grant.options)}{access} ({most})"
    path = files.path_of(grant.options) if grant.kind == "files" else None
    return f", and a tree that lasts at {path} ({files.quota_of(grant.options):,} bytes at the most)" if path else ""
