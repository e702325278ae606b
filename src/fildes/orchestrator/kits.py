"""The kit of descriptors that one instance gets.

It is put together ahead of the request that needs it, so that a start is one message to the zygote.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from fildes.capabilities.files import grant as files
from fildes.capabilities.kinds import KINDS
from fildes.daemon.peer import Peer
from fildes.kernel import fds, process
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, close_all, seqpacket_pair, set_blocking
from fildes.orchestrator import launch
from fildes.wire import bus, drivers
from fildes.wire.catalogue import Grant, Release

_WHY: Final = {
    "handle": "runtime: handle, to the orchestrator",
    "channel": "runtime: channel, to the bus",
}


@dataclass
class Kit:
    """Owned by whoever holds it until the start; `ours` is the orchestrator's end of the handle."""

    instance: str
    ours: Fd
    theirs: Fd
    channel: Fd
    grants: list[tuple[str, Fd]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    cgroup: Cgroup | None = None
    entrances: list[Fd] = field(default_factory=list)  # by which the instance puts itself into the cgroup
    secrets: str = ""  # their edition
    waits: bool = False  # a process has it already, and waits for the conveyor

    def close(self) -> None:
        """Who waits ends then."""
        close_all([self.ours, *self.given])
        if self.cgroup is not None and not self.waits:
            self.cgroup.remove()  # nobody was in it

    @property
    def given(self) -> list[Fd]:
        return [self.theirs, self.channel, *self.entrances, *(fd for _, fd in self.grants)]

    def named(self) -> list[tuple[str, int]]:
        """What rides with the start order."""
        return [
            ("handle", self.theirs.fileno()),
            ("channel", self.channel.fileno()),
            *(("cgroup", fd.fileno()) for fd in self.entrances),
            *((f"grant:{name}", fd.fileno()) for name, fd in self.grants),
        ]


async def prepare(peer: Peer, release: Release) -> Kit:
    """Ask the bus for everything that the release's grants say an instance starts with. Raises Refused."""
    instance = os.urandom(4).hex()
    grants: list[tuple[str, Fd]] = []
    channel = await peer.ask("bus.channel", bus.Channel(release.id, instance, release.service, release.grants))
    try:
        for grant in release.grants:
            if KINDS[grant.kind].at_start:
                grants += [(grant.name, fd) for fd in await _opened(peer, release, grant)]
    except BaseException:
        close_all([*channel.fds, *(fd for _, fd in grants)])
        raise
    ours, theirs = seqpacket_pair()
    process.pass_credentials(ours.fileno())
    set_blocking(ours.fileno(), False)
    set_blocking(theirs.fileno(), False)
    kit = Kit(instance, ours, theirs, channel.fds[0], grants)
    kinds = {grant.name: grant.kind for grant in release.grants}
    kit.secrets = edition((name, fd) for name, fd in grants if kinds[name] == "secret")
    folders = _folders(release, kit)
    several = {f"grant:{name}" for name, _ in folders}
    named = [(what, fd) for what, fd in kit.named() if what not in several]
    kit.held = {fds.name(fd): _WHY.get(what, f"grant {what.removeprefix('grant:')}") for what, fd in named}
    kit.held |= {path: f"grant {name}" for name, path in folders} | places(release)
    return kit


async def secrets_of(peer: Peer, release: Release) -> list[tuple[str, Fd]]:
    """(grant, sealed copy) of each secret that it was granted: programs read theirs while they load. Raises Refused."""
    opened: list[tuple[str, Fd]] = []
    try:
        for grant in release.grants:
            if grant.kind == "secret":
                opened += [(grant.name, fd) for fd in await _opened(peer, release, grant)]
    except BaseException:
        close_all([fd for _, fd in opened])
        raise
    return opened


def edition(opened: Iterable[tuple[str, Fd]]) -> str:
    """The same for the same secrets; "" for none."""
    told = blake2b(digest_size=16)
    some = False
    for name, fd in opened:
        some = True
        value = os.pread(fd.fileno(), os.fstat(fd.fileno()).st_size, 0)
        told.update(b"%d %d " % (len(name), len(value)) + name.encode() + value)
    return told.hexdigest() if some else ""


async def _opened(peer: Peer, release: Release, grant: Grant) -> list[Fd]:
    whose = (release.id, release.service, release.owner)
    opening = drivers.Open(grant.kind, grant.name, dict(grant.options), *whose)
    return (await peer.ask(f"{KINDS[grant.kind].driver}.open", opening, reply=drivers.Opened)).fds


def places(release: Release) -> dict[str, str]:
    """Directories of the view, with a slash behind, that a grant gives: whatever is open in them is that."""
    return {f"{files.path_of(grant.options)}/": f"grant {grant.name}" for grant in launch.trees(release)}


def _folders(release: Release, kit: Kit) -> list[tuple[str, str]]:
    """(grant, directory with a slash behind) of what came as several files: named one by one it would be too much for
    the store, which remembers why things are held."""
    kept = {grant.name for grant in release.grants if grant.kind == "sqlite"}
    paths = {name: os.path.dirname(fds.name(fd.fileno())) for name, fd in kit.grants if name in kept}
    return [(name, f"{path}/") for name, path in paths.items()]
