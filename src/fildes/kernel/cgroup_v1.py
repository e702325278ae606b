"""cgroup v1 (cgroups(7)): a hierarchy for each controller, so a cgroup is one directory in each.

Facts: kills are counted per cgroup, not up the tree. A child's cpu quota may not be above its parent's. Only
uid 0 may move a process of another uid, whoever owns the directories. The freezer is what makes killing
complete: what is frozen can't fork.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from fildes.kernel.cgroups import (
    Hierarchy,
    Limits,
    _subtree,
    make_directory,
    mounts,
    own_paths,
    place,
    read,
    signal_all,
    write,
)
from fildes.kernel.fds import Fd

CONTROLLERS: Final = ("memory", "cpu", "pids", "freezer")
_PERIOD: Final = 100_000  # microseconds


class V1(Hierarchy):
    def __init__(self, bases: dict[str, str]) -> None:
        self._bases = bases  # controller → the directory in which nodes' trees lie
        self._roots = list(dict.fromkeys(bases.values()))  # two controllers may share a mount
        self.controllers = frozenset(bases)
        self.freezes = "freezer" in bases

    def directories(self, path: str) -> list[str]:
        return [f"{base}/{path}" for base in self._roots]

    def create(self, path: str, limits: Limits) -> None:
        for directory in self.directories(path):
            make_directory(directory)
        if limits.memory is not None and "memory" in self._bases:
            self._limit_memory(self._of("memory", path), limits.memory)
        if limits.cpu is not None and "cpu" in self._bases:
            directory = self._of("cpu", path)
            write(directory, "cpu.cfs_period_us", _PERIOD)
            write(directory, "cpu.cfs_quota_us", max(1000, round(limits.cpu * _PERIOD)))
        if limits.tasks is not None and "pids" in self._bases:
            write(self._of("pids", path), "pids.max", limits.tasks)

    @staticmethod
    def _limit_memory(directory: str, limit: int) -> None:
        swap = os.path.exists(f"{directory}/memory.memsw.limit_in_bytes")
        if swap and limit > int(read(directory, "memory.memsw.limit_in_bytes")):
            # Memory with swap may never be less than memory: so it goes up first.
            write(directory, "memory.memsw.limit_in_bytes", limit)
        write(directory, "memory.limit_in_bytes", limit)
        if swap:
            write(directory, "memory.memsw.limit_in_bytes", limit)
        if os.path.exists(f"{directory}/memory.kmem.tcp.limit_in_bytes"):
            # Buffers of TCP sockets are counted apart in v1.
            write(directory, "memory.kmem.tcp.limit_in_bytes", limit)

    def attach(self, path: str, pid: int) -> None:
        for directory in self.directories(path):
            write(directory, "cgroup.procs", pid)

    def entrances(self, path: str) -> list[Fd]:
        # `tasks`, not `cgroup.procs`: a thread that moves itself needs no lock on all forks of the machine.
        return [Fd.open(f"{directory}/tasks", os.O_WRONLY) for directory in self.directories(path)]

    def oom_kills(self, path: str) -> int:
        if "memory" not in self._bases:
            return 0
        total = 0
        for directory in _subtree(self._of("memory", path)):
            words = read(directory, "memory.oom_control").split()
            total += int(dict(zip(words[::2], words[1::2], strict=True)).get("oom_kill", 0))
        return total

    def kill(self, path: str) -> None:
        freezable = "freezer" in self._bases
        if freezable:
            self.set_frozen(path, True)
        try:
            # Without a freezer: until a pass finds nobody new, at most this often.
            for _ in range(1 if freezable else 20):
                if not sum(signal_all(directory) for directory in self.directories(path)):
                    break
        finally:
            if freezable:
                # Those below that were frozen by themselves too: there nobody dies until they are thawed.
                for directory in _subtree(self._of("freezer", path)):
                    with contextlib.suppress(FileNotFoundError):
                        write(directory, "freezer.state", "THAWED")

    def set_frozen(self, path: str, frozen: bool) -> None:
        if "freezer" not in self._bases:
            raise OSError(f"no freezer on this machine for {path}")
        directory = self._of("freezer", path)
        if not os.path.isdir(directory):
            return
        write(directory, "freezer.state", "FROZEN" if frozen else "THAWED")
        deadline = time.monotonic() + 0.1
        while frozen and read(directory, "freezer.state").strip() == "FREEZING" and time.monotonic() < deadline:
            os.sched_yield()

    def usage(self, path: str) -> dict[str, float]:
        found: dict[str, float] = {}
        if "memory" in self._bases:
            directory = self._of("memory", path)
            found["memory"] = int(read(directory, "memory.usage_in_bytes"))
            found["memory_peak"] = int(read(directory, "memory.max_usage_in_bytes"))
        if "pids" in self._bases:
            found["tasks"] = int(read(self._of("pids", path), "pids.current"))
        if "cpu" in self._bases and os.path.exists(f"{self._of('cpu', path)}/cpuacct.usage"):
            found["cpu"] = int(read(self._of("cpu", path), "cpuacct.usage")) / 1e9
        return found

    def _of(self, controller: str, path: str) -> str:
        return f"{self._bases[controller]}/{path}"


def detect() -> V1 | None:
    """The v1 controllers in whose hierarchies this process may make cgroups; None without memory or pids."""
    own = own_paths()
    bases: dict[str, str] = {}
    for controller in CONTROLLERS:
        for mount in mounts():
            if mount.type != "cgroup" or controller not in mount.options or controller not in own:
                continue
            path = place(own[controller])
            inside = path.removeprefix(mount.root.rstrip("/")) if path.startswith(mount.root.rstrip("/")) else ""
            base = mount.point + inside
            if os.access(base, os.W_OK | os.X_OK):
                bases[controller] = base
    return V1(bases) if bases.keys() & {"memory", "pids"} else None
