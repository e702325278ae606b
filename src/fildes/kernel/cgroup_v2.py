"""cgroup v2 (Documentation/admin-guide/cgroup-v2.rst): one hierarchy for all controllers.

Facts: a cgroup that gives controllers to its children may hold no process of its own, the root apart. So a
process that is attached to a cgroup with children goes into a leaf `fildes-own` in it. Kills are counted up the
tree, and stay counted there when the child is removed.
A delegated subtree is one whose directory and cgroup.subtree_control belong to us: as a unit of systemd with Delegate=
has it, in which the first to look finds only itself, and goes into the leaf.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

from fildes.kernel.cgroups import (
    PREFIX,
    Hierarchy,
    Limits,
    make_directory,
    mounts,
    own_paths,
    place,
    read,
    signal_all,
    write,
)
from fildes.kernel.fds import Fd

CONTROLLERS: Final = ("memory", "pids", "cpu")
OWN: Final = f"{PREFIX}own"  # so that who is in it finds its way out: see `place`
_PERIOD: Final = 100_000  # microseconds


class V2(Hierarchy):
    keeps_counts = True

    def __init__(self, base: str, controllers: frozenset[str]) -> None:
        self._base = base
        self.controllers = controllers

    def directories(self, path: str) -> list[str]:
        return [f"{self._base}/{path}"]

    def create(self, path: str, limits: Limits) -> None:
        directory = f"{self._base}/{path}"
        if "/" in path:
            _give_controllers(os.path.dirname(directory), self.controllers)
        make_directory(directory)
        if limits.memory is not None and "memory" in self.controllers:
            write(directory, "memory.max", limits.memory)
            if os.path.exists(f"{directory}/memory.swap.max"):
                write(directory, "memory.swap.max", 0)
        if limits.cpu is not None and "cpu" in self.controllers:
            write(directory, "cpu.max", f"{max(1000, round(limits.cpu * _PERIOD))} {_PERIOD}")
        if limits.tasks is not None and "pids" in self.controllers:
            write(directory, "pids.max", limits.tasks)

    def attach(self, path: str, pid: int) -> None:
        write(self._leaf(path), "cgroup.procs", pid)

    def entrances(self, path: str) -> list[Fd]:
        return [Fd.open(f"{self._leaf(path)}/cgroup.procs", os.O_WRONLY)]

    def _leaf(self, path: str) -> str:
        directory = f"{self._base}/{path}"
        if not read(directory, "cgroup.subtree_control").split():
            return directory
        make_directory(f"{directory}/{OWN}")
        return f"{directory}/{OWN}"

    def oom_kills(self, path: str) -> int:
        return _counters(f"{self._base}/{path}", "memory.events").get("oom_kill", 0)

    def kill(self, path: str) -> None:
        directory = f"{self._base}/{path}"
        try:
            write(directory, "cgroup.kill", 1)  # 5.14
        except FileNotFoundError:
            for _ in range(20):
                if not signal_all(directory):
                    break

    def set_frozen(self, path: str, frozen: bool) -> None:
        directory = f"{self._base}/{path}"
        write(directory, "cgroup.freeze", int(frozen))
        deadline = time.monotonic() + 0.1
        while frozen and not _counters(directory, "cgroup.events").get("frozen") and time.monotonic() < deadline:
            os.sched_yield()

    def usage(self, path: str) -> dict[str, float]:
        directory = f"{self._base}/{path}"
        found: dict[str, float] = {}
        for name, file in (("memory", "memory.current"), ("memory_peak", "memory.peak"), ("tasks", "pids.current")):
            try:
                found[name] = int(read(directory, file))
            except FileNotFoundError:  # the controller is not there, or the file is younger than this kernel
                continue
        found["cpu"] = _counters(directory, "cpu.stat").get("usage_usec", 0) / 1e6
        return found


def _counters(directory: str, name: str) -> dict[str, int]:
    try:
        words = read(directory, name).split()
    except FileNotFoundError:
        return {}
    return {key: int(value) for key, value in zip(words[::2], words[1::2], strict=True)}


def _give_controllers(directory: str, controllers: frozenset[str]) -> None:
    """Enable `controllers` for the children of `directory`; processes that are in it go into its leaf."""
    missing = controllers - set(read(directory, "cgroup.subtree_control").split())
    if not missing:
        return
    command = " ".join(f"+{name}" for name in sorted(missing))
    # Before, not when it is refused: cpu and pids alone would be taken, and make of the children a kind of cgroup that
    # processes can't be moved to ("domain invalid"). The top, which has no type, may hold processes.
    if os.path.exists(f"{directory}/cgroup.type") and read(directory, "cgroup.procs"):
        _move_to_leaf(directory)
    try:
        write(directory, "cgroup.subtree_control", command)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _move_to_leaf(directory)
        write(directory, "cgroup.subtree_control", command)


def _move_to_leaf(directory: str) -> None:
    make_directory(f"{directory}/{OWN}")
    for _ in range(20):  # a process may fork meanwhile
        pids = read(directory, "cgroup.procs").split()
        if not pids:
            return
        for pid in pids:
            try:
                write(f"{directory}/{OWN}", "cgroup.procs", pid)
            except ProcessLookupError:
                continue


def detect() -> V2 | None:
    """The v2 cgroup of this process, if it may make others in it with memory and pids; as root also the top one."""
    own = own_paths().get("")
    mount = next((mount for mount in mounts() if mount.type == "cgroup2"), None)
    if own is None or mount is None:
        return None
    inside = place(own).removeprefix(mount.root.rstrip("/"))
    bases = [mount.point + inside, *([mount.point] if inside and os.geteuid() == 0 else [])]
    for base in bases:
        if (found := _usable(base)) is not None:
            return found
    return None


def _usable(base: str) -> V2 | None:
    """Whether `base` gives controllers to children, or can be made to without moving anybody but ourselves."""
    try:
        controllers = frozenset(read(base, "cgroup.controllers").split()) & set(CONTROLLERS)
        if not {"memory", "pids"} <= controllers or not os.access(base, os.W_OK):
            return None
        given = set(read(base, "cgroup.subtree_control").split())
        if not controllers <= given:
            others = set(read(base, "cgroup.procs").split()) - {str(os.getpid())}
            if others and os.path.exists(f"{base}/cgroup.type"):  # the top has no type, and may hold processes
                return None
            _give_controllers(base, controllers)
    except OSError:
        return None
    return V2(base, controllers)
