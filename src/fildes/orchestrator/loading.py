"""From a release to its zygote behind the ratchet: files, log, filters, launch, load."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, Final

from fildes.capabilities.sqlite import grant as sqlite
from fildes.daemon.abi import foreign, sentence
from fildes.daemon.peer import Peer, Refused
from fildes.daemon.store import Store
from fildes.kernel import fds, memfd
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop
from fildes.orchestrator import scale
from fildes.orchestrator.instances import held_as_blob
from fildes.orchestrator.kits import edition, places, secrets_of
from fildes.orchestrator.launch import BASE, keeps_files, load_profile, secret_places
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.zygotes import Launched, Zygote
from fildes.wire import log
from fildes.wire.catalogue import Grant, Release

INSTANCE_IDLE: Final = 60.0  # seconds without a connection after which an instance ends


def zygote_key(release: Release, zygote: Zygote) -> str:
    """Its place in the fd store; a successor has to know whether it may fork it."""
    return f"zygote.{release.id}.{zygote.threads}"


def loading_key(release: Release, alone: str = "") -> str:
    """Where the pidfd of one lies that a successor can only end: it loads, or it is `alone`, for one command."""
    return f"loading.{release.id}.{alone}" if alone else f"loading.{release.id}"


def draining_key(release: str, pid: int) -> str:
    """The place of a zygote whose own is a successor's; the blob says until when it may go on (CLOCK_MONOTONIC)."""
    return f"draining.{release}.{pid}"


async def load(
    loop: Loop,
    peer: Peer,
    store: Store,
    resources: Resources,
    release: Release,
    born: Callable[[Fd], object],
    *,
    alone: str = "",
) -> Zygote:
    """A zygote that has loaded the program and can do nothing new any more. One that is `alone`, beside the release's
    own, has a cgroup of that name, and stays in the store under `loading_key`.

    `born` is shown its pidfd (borrowed) at once; while it loads the store has it too, so that a successor of ours can
    end it. Raises Refused with the tenant's error, and OSError; nothing is left then.
    """
    if foreign(release.abi):  # its byte code and its libraries are another interpreter's
        raise Refused("foreign", f"{release.service}: {sentence(release.service, release.abi, release.id)}")
    key = loading_key(release, alone)

    kept = False

    def on_birth(pidfd: Fd) -> None:
        store.deposit(key, b"", [pidfd])
        born(pidfd)

    try:
        zygote = await _loaded(loop, peer, resources, release, on_birth, alone)
        try:
            await zygote.ratchet(keep_files=keeps_files(release))
        except BaseException:
            resources.end(zygote)
            raise
        kept = bool(alone)
        return zygote
    finally:
        if not kept:
            store.drop(key)


_SECRETS: Final = "secrets"  # among what a zygote holds, in the store: they are in its memory


def deposit(store: Store, release: Release, zygote: Zygote) -> None:
    held = zygote.held | ({_SECRETS: zygote.secrets} if zygote.secrets else {})
    store.deposit(zygote_key(release, zygote), held_as_blob(held), zygote.descriptors)


def remember(zygote: Zygote, blob: bytes) -> None:
    """What `deposit` wrote about it."""
    zygote.held = json.loads(blob)
    zygote.secrets = zygote.held.pop(_SECRETS, "")


async def _loaded(
    loop: Loop, peer: Peer, resources: Resources, release: Release, born: Callable[[Fd], object], alone: str
) -> Zygote:
    began = time.monotonic()
    tree, packs = await resources.files_of(release)
    given = dict(zip(("base", "release"), packs, strict=True))
    cgroup: Cgroup | None = None
    kept: list[Fd] = []
    try:
        [log_pipe] = (await peer.ask("log.open", log.Open(release.service, release.id, release.limits.log))).fds
        given["log"] = log_pipe
        largest = max(os.fstat(pack.fileno()).st_size for pack in packs)
        given["serve"] = memfd.sealed("serve", resources.serve_program(release, largest))
        given["null"] = Fd.open("/dev/null", os.O_RDWR)
        cgroup = resources.cgroup_of(release, alone)
        entries, kept = await resources.trees_of(release)
        opened = await secrets_of(peer, release)
        kept += [fd for _, fd in opened]
        entries += secret_places(opened)
        plan, program = resources.plan_of(release, tree, largest, entries), resources.program(load_profile(release))
        launched = Launched(plan, program, log_pipe.fileno(), cgroup)
        files = (time.monotonic() - began) * 1e3
        sent = {what: fd.fileno() for what, fd in given.items() if what != "log"}
        settings = _settings(release, resources.access_log)
        zygote = await Zygote.load(loop, launched, settings, sent, resources.exits, resources.load_limit, born=born)
        zygote.phases = {"files": files} | zygote.phases
        zygote.secrets = edition(opened)
        zygote.held[fds.name(log_pipe.fileno())] = "runtime: its log"
        zygote.held |= places(release)
        return zygote
    except BaseException:
        resources.remove_cgroup(cgroup, kill=False)  # its zygote was killed; others of this release may be in it
        raise
    finally:
        close_all([*given.values(), *kept])


def _settings(release: Release, access_log: bool) -> dict[str, Any]:
    """What the tenant's side is told; see zygote/main.py."""
    return {
        "service": release.service,
        "release": release.id,
        "runtime": release.runtime,
        "entry": release.entry,
        "hosts": list(release.hosts),
        "env": {**BASE, **release.env},
        "grants": [_grant(grant) for grant in release.grants],
        "concurrency": release.limits.concurrency,
        "tasks": release.limits.tasks,
        "body": release.limits.body,
        "timeout": release.limits.timeout,
        "idle": INSTANCE_IDLE,
        "stays": scale.stands(release.runtime, release.limits.spares),
        "health": release.health,
        "paths": ["/app", "/deps"],
        "access_log": access_log,
    }


def _grant(grant: Grant) -> dict[str, Any]:
    """What a program's runtime needs to know about a grant."""
    told: dict[str, Any] = {"name": grant.name, "kind": grant.kind, "to": grant.to}
    if grant.kind == "sqlite":
        told |= {"path": sqlite.path_of(grant.name, grant.options), "writable": sqlite.writable(grant.options)}
    return told
