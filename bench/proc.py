"""What the kernel says of processes: memory, wake-ups, cgroups (proc(5), cgroups(7))."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def memory(pid: int) -> dict[str, int]:
    """smaps_rollup in bytes: Rss, Pss, Private_Dirty, Private_Clean, …"""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def private(pid: int) -> int:
    """Bytes that would be free if it ended: shared with nobody."""
    found = memory(pid)
    return found["Private_Dirty"] + found["Private_Clean"]


def pss(pids: Iterable[int]) -> int:
    return sum(memory(pid)["Pss"] for pid in pids)


def switches(pids: Iterable[int]) -> int:
    """Context switches of all their threads so far, voluntary or not."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            for line in Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines():
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
    return total


def ran(pid: int) -> float:
    """Milliseconds of CPU that its first thread has had so far; finer than the ticks of /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def cgroup(pid: int) -> Path | None:
    """The directory by which its memory is accounted: cgroup v1's controller, or v2; None if there is neither."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CGROUPS / "memory" / path.lstrip("/")
        if not controllers and (_CGROUPS / "cgroup.controllers").exists():
            return _CGROUPS / path.lstrip("/")
    return None


def usage(group: Path | None) -> int | None:
    """Bytes that are charged to a group and those below it, the kernel's own included."""
    if group is not None:
        for name in ("memory.current", "memory.usage_in_bytes"):
            if (group / name).exists():
                return int((group / name).read_text())
    return None
