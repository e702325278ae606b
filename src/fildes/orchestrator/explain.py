"""A release's confinement in words: what `launch`, the ratchet and the start will do, in their order. No I/O."""

from __future__ import annotations

from fildes.capabilities.kinds import KINDS
from fildes.orchestrator import view
from fildes.orchestrator.resources import keeps_files
from fildes.wire.catalogue import Release


def steps(release: Release, *, root: bool, cgroups: bool) -> list[str]:
    """One line a step."""
    return [*_load(release, root=root, cgroups=cgroups), *_ratchet(release), *_serve(release)]


def _load(release: Release, *, root: bool, cgroups: bool) -> list[str]:
    limits = release.limits
    bounds = f"memory {limits.memory >> 20} MiB, cpu {limits.cpu:g}, {limits.tasks} tasks an instance"
    lines = [
        f"load: a cgroup of its own: {bounds}"
        if cgroups
        else "load: no cgroup: this user has none delegated; no limits",
        "load: new PID, mount, network (empty), IPC and UTS namespaces" + ("" if root else ", and a user namespace"),
    ]
    for entry in view.layout(release.pack):
        lines.append(f"load: view: {_words(entry)}")
    lines += [
        f"load: uid and gid {release.uid}, no supplementary groups" if root else "load: the one uid that this node has",
        "load: no capabilities, no-new-privs, no core files",
        "load: Landlock: no TCP, no signals and no abstract sockets outward",
        f"load: seccomp profile {'load-files' if keeps_files(release) else 'load'}: calls for loading ask the"
        " orchestrator, all else but serving is refused",
        "load: exec of the interpreter, its vDSO hidden; rdtsc faults",
        f"load: import {release.entry}",
    ]
    return lines


def _ratchet(release: Release) -> list[str]:
    files = (
        "/proc is detached; the rest of the view stays"
        if keeps_files(release)
        else "every mount of the view is detached"
    )
    return [
        "ratchet: every call for loading is refused from now on, one clone per ordered start excepted",
        "ratchet: processes that the program left running are killed",
        f"ratchet: {files}",
    ]


def _serve(release: Release) -> list[str]:
    profile = "serve-files" if keeps_files(release) else "serve"
    lines = [f"serve: seccomp profile {profile} on top"]
    lines += [
        f"serve: holds {name}" for name in ("/dev/null", "its log pipe", "conveyor", "handle", "channel", "packs")
    ]
    for grant in release.grants:
        kind = KINDS.get(grant.kind)
        when = "from its start" if kind is not None and kind.at_start else "when it asks"
        to = f" to {grant.to}" if grant.to else ""
        lines.append(f"serve: grant {grant.name}: {grant.kind}{to}, {when}")
    return lines


def _words(entry: view.Entry) -> str:
    if isinstance(entry, view.Bind):
        return f"{entry.path} read-only" + (f" from {entry.source}" if entry.source != entry.path else "")
    if isinstance(entry, view.Filesystem):
        return f"{entry.path}: {entry.type}" + (" read-only" if entry.read_only else "")
    if isinstance(entry, view.Link):
        return f"{entry.path} → {entry.target}"
    return entry.path
