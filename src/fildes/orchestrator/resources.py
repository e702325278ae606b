"""What all releases share: their files on this node, the filters, the cgroup tree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from fildes.capabilities.files import grant as files
from fildes.daemon.peer import Peer, Refused
from fildes.kernel import cgroups, loops
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import Loop, Timer
from fildes.orchestrator import explain, launch, trees
from fildes.orchestrator.children import ChildFailed, Exits, in_child
from fildes.orchestrator.pace import Pace
from fildes.orchestrator.wishes import Wishes
from fildes.orchestrator.zygotes import Zygote
from fildes.pack import base
from fildes.sandbox import profile
from fildes.sandbox.plan import Plan
from fildes.sandbox.tree import Folder, Image, maker
from fildes.sandbox.view import Entry
from fildes.wire import catalogue, storage
from fildes.wire.catalogue import Release

LOAD_LIMIT: Final = 60.0  # seconds that a program may take to load, unless `fildes up --load-limit` says otherwise
COMMAND_LIMIT: Final = 600.0  # seconds for one of on_release, unless `fildes up --command-limit` says otherwise
ZYGOTE_SHARE: Final = 2  # a release as a whole may use so many times what one instance may


class Resources:
    def __init__(self, loop: Loop, peer: Peer, settings: dict[str, Any], trees_dir: Fd) -> None:
        self._loop, self._peer = loop, peer
        self.root: bool = settings["root"]
        self._trees = os.readlink(f"/proc/self/fd/{trees_dir.fileno()}")
        self._mountpoint = os.path.join(self._trees, "view")
        os.makedirs(self._mountpoint, 0o755, exist_ok=True)
        self.command_limit: float = settings.get("command_limit", COMMAND_LIMIT)
        self.load_limit: float = settings.get("load_limit", LOAD_LIMIT)
        self.access_log = bool(settings.get("access_log"))
        self._programs = {
            f"{name}{variant}": profile.compile(profile.load(f"{name}{variant}"))
            for name in ("load", "serve", "command")
            for variant in launch.VARIANTS
        }
        hierarchy = cgroups.detect()
        name = settings.get("cgroup")
        self._cgroups = hierarchy.open(name) if hierarchy is not None and name else None
        self._leaving: dict[str, Timer] = {}  # cgroups that the kernel did not let go of at once, by path
        self._base: Fd | None = None
        self._images = self.root and maker() is not None and loops.usable()
        self.exits = Exits(loop)
        self.pace = Pace(loop, max(1, len(os.sched_getaffinity(0)) // 2))
        self.wishes = Wishes(os.path.join(self._trees, "wishes.json"), loop.on_error)

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
        # Opened anew, not duplicated: a description has a position and flags, through which two tenants could talk.
        return Fd.open(f"/proc/self/fd/{self._base.fileno()}", os.O_RDONLY)

    # — confinement —

    def program(self, name: str) -> bytes:
        """The compiled filter of a profile."""
        return self._programs[name]

    def serve_program(self, release: Release, packs: int) -> bytes:
        """That of the release's instances; `packs` as in launch.largest_file."""
        name, largest = launch.serve_profile(release), launch.largest_file(release, packs)
        return self.program(name) if largest is None else profile.compile(profile.bounded(profile.load(name), largest))

    def plan_of(self, release: Release, tree: str, packs: int = 0, kept: Sequence[Entry] = ()) -> Plan:
        limits = explain.limits(release.limits) if self._cgroups is not None else ""
        where = self._mountpoint
        return launch.plan(release, tree=tree, mountpoint=where, root=self.root, limits=limits, packs=packs, kept=kept)

    async def trees_of(self, release: Release) -> tuple[list[Entry], list[Fd]]:
        """Its trees that last, for its view, and the descriptors that they are made from. Raises Refused."""
        entries: list[Entry] = []
        fds: list[Fd] = []
        if launch.trees(release) and self.root and not self._images:
            text = "a tree that lasts is a file system in a file, which needs loop devices and mke2fs (e2fsprogs)"
            raise Refused("warm", f"{text}; this machine lacks one of them: fildes doctor")
        try:
            for grant in launch.trees(release):
                quota, path = files.quota_of(grant.options), files.path_of(grant.options) or ""
                asked = storage.Tree(release.owner, release.service, grant.name, quota, self._images)
                answer = await self._peer.ask("storage.tree", asked, reply=storage.Placed)
                fds += answer.fds
                [directory, tree] = answer.fds
                if answer.body.image:
                    entries.append(Image(path, tree.fileno(), directory.fileno(), answer.body.quota, release.uid))
                else:
                    source = os.readlink(f"/proc/self/fd/{tree.fileno()}")
                    entries.append(Folder(path, source))
        except BaseException:
            close_all(fds)
            raise
        return entries, fds

    def explain(self, release: Release) -> list[str]:
        return explain.steps(release, self.plan_of(release, os.path.join(self._trees, release.pack)))

    # — cgroups —

    def cgroup_of(self, release: Release, alone: str = "") -> Cgroup | None:
        """That of the release; of a zygote that is `alone`, its own."""
        if self._cgroups is None:
            return None
        limits = cgroups.Limits(
            memory=release.limits.memory * ZYGOTE_SHARE, cpu=release.limits.cpu, tasks=release.limits.tasks
        )
        cgroup = self._cgroups.child(f"release-{release.id}{alone and f'-{alone}'}", limits)
        # It may be another's that has just ended, of the same release (a rollback): it is this one's now.
        leaving = self._leaving.pop(cgroup.path, None)
        if leaving is not None:
            leaving.cancel()
        return cgroup

    def instance_cgroup(self, parent: Cgroup | None, instance: str, release: Release) -> Cgroup | None:
        if parent is None:
            return None
        limits = cgroups.Limits(memory=release.limits.memory, cpu=release.limits.cpu, tasks=release.limits.tasks)
        return parent.child(f"instance-{instance}", limits)

    def remove_cgroup(self, cgroup: Cgroup | None, *, kill: bool = True) -> None:
        """Its processes ended or were just killed: the kernel may take a moment until it lets the group go. Whoever is
        still in it then is killed, unless `kill` says that they may be others."""
        if cgroup is None:
            return
        try:
            cgroup.remove(timeout=0)
        except OSError:
            self._leaving[cgroup.path] = self._loop.call_later(0.2, lambda: self._remove_at_last(cgroup, kill))

    def _remove_at_last(self, cgroup: Cgroup, kill: bool) -> None:
        self._leaving.pop(cgroup.path, None)
        try:
            if kill:
                cgroup.kill()
            cgroup.remove(timeout=0)
        except OSError:
            return  # fildes up removes what is left of the node's tree at its end

    def end(self, zygote: Zygote) -> None:
        """Kill a zygote, and with it everything of its release, and let go of it."""
        zygote.kill()
        zygote.close()
        self.remove_cgroup(zygote.cgroup)
