"""What all releases share: their files on this node, the filters, the cgroup tree."""

from __future__ import annotations

import os
from typing import Any, Final

from fildes.daemon.peer import Peer, Refused
from fildes.kernel import cgroups
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop
from fildes.orchestrator import trees
from fildes.orchestrator.children import ChildFailed, Exits, in_child
from fildes.pack import base
from fildes.sandbox import profile
from fildes.wire import catalogue
from fildes.wire.catalogue import Release

ZYGOTE_SHARE: Final = 2  # a release as a whole may use so many times what one instance may


def keeps_files(release: Release) -> bool:
    """Whether the release's view stays after the ratchet."""
    return any(grant.kind == "files" for grant in release.grants)


class Resources:
    def __init__(self, loop: Loop, peer: Peer, settings: dict[str, Any], trees_dir: Fd) -> None:
        self._loop, self._peer = loop, peer
        self.root: bool = settings["root"]
        self._trees = os.readlink(f"/proc/self/fd/{trees_dir.fileno()}")
        self.mountpoint = os.path.join(self._trees, "view")
        os.makedirs(self.mountpoint, 0o755, exist_ok=True)
        self._filters = {
            name: profile.compile(profile.load(name)) for name in ("load", "serve", "load-files", "serve-files")
        }
        hierarchy = cgroups.detect()
        name = settings.get("cgroup")
        self._cgroups = hierarchy.open(name) if hierarchy is not None and name else None
        self._base: Fd | None = None
        self.exits = Exits(loop)

    # — files —

    async def files_of(self, release: Release) -> tuple[str, list[Fd]]:
        """The release's tree, and its packs: [base, release], owned by the caller. Raises Refused."""
        answer = await self._peer.ask("catalogue.pack", catalogue.Pack(release.id), reply=catalogue.Packed)
        pack = answer.fds[0]
        try:
            tree = os.path.join(self._trees, release.pack)
            if not os.path.isdir(tree):
                await in_child(self._loop, lambda: trees.unpack(pack.fileno(), self._trees, release.pack))
            return tree, [await self._base_pack(), pack]
        except ChildFailed as error:
            pack.close()
            raise Refused("warm", f"its files could not be unpacked: {error}") from error

    async def _base_pack(self) -> Fd:
        """The standard library and the runtime, one pack for every release on this interpreter."""
        if self._base is None:
            path = os.path.join(self._trees, base.name())
            if not os.path.exists(path):
                await in_child(self._loop, lambda: base.build(path))
            self._base = Fd.open(path, os.O_RDONLY)
        return self._base.dup()

    # — filters —

    def load_filter(self, release: Release) -> bytes:
        return self._filters["load-files" if keeps_files(release) else "load"]

    def serve_filter(self, release: Release) -> bytes:
        return self._filters["serve-files" if keeps_files(release) else "serve"]

    # — cgroups —

    @property
    def has_cgroups(self) -> bool:
        return self._cgroups is not None

    def cgroup_of(self, release: Release) -> Cgroup | None:
        if self._cgroups is None:
            return None
        limits = cgroups.Limits(
            memory=release.limits.memory * ZYGOTE_SHARE, cpu=release.limits.cpu, tasks=release.limits.tasks
        )
        return self._cgroups.child(f"release-{release.id}", limits)

    def instance_cgroup(self, parent: Cgroup | None, instance: str, release: Release) -> Cgroup | None:
        if parent is None:
            return None
        limits = cgroups.Limits(memory=release.limits.memory, cpu=release.limits.cpu, tasks=release.limits.tasks)
        return parent.child(f"instance-{instance}", limits)

    def remove_cgroup(self, cgroup: Cgroup | None) -> None:
        """Its processes were just killed: the kernel takes a moment until it lets the group go."""
        if cgroup is None:
            return
        try:
            cgroup.kill()
            cgroup.remove()
        except OSError:
            self._loop.call_later(0.2, lambda: self._remove_at_last(cgroup))

    @staticmethod
    def _remove_at_last(cgroup: Cgroup) -> None:
        try:
            cgroup.remove()
        except OSError:
            return  # fildes up removes what is left of the node's tree at its end
