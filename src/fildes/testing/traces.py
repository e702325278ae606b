"""What a node leaves on the machine, looked for from outside: it must be nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

GRACE = 2.0  # seconds


def children(pid: int) -> list[int]:
    """The pids of the children of `pid`; none if it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in text.split()]


def name(pid: int) -> str:
    """The process's name, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Traces:
    """Notes a node's processes, namespace and cgroup while it runs, to look for them afterwards."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._processes: dict[int, str] = {}  # pid → start time, so that a pid used again is not mistaken
        self._namespace = ""
        self._groups: set[str] = set()

    def note(self, pid: int) -> None:
        """`fildes up` runs as `pid`."""
        below = children(pid)
        if below and not self._namespace:
            namespace = _link(f"/proc/{below[0]}/ns/pid")
            self._namespace = namespace if namespace != _link("/proc/self/ns/pid") else ""
        while below:
            child = below.pop()
            self._processes[child] = _start_time(child)
            self._groups |= _groups(child)
            below += children(child)

    def processes(self) -> list[int]:
        """The pids that are still there."""
        pids = {pid for pid, started in self._processes.items() if started and _start_time(pid) == started}
        if self._namespace:
            pids |= {pid for pid in _pids() if _link(f"/proc/{pid}/ns/pid") == self._namespace}
        return sorted(pid for pid in pids if _start_time(pid))

    def left(self) -> list[str]:
        """A sentence for everything that is still there. What the kernel takes a moment to give up is waited for: the
        last mount of a disk, a group whose last process is being taken apart."""
        deadline = time.monotonic() + GRACE
        while (found := self._found()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    def _found(self) -> list[str]:
        found = [f"process {pid} ({name(pid)})" for pid in self.processes()]
        found += [f"cgroup {path}" for path in self._cgroups()]
        found += [f"{self._state / file}" for file in ("control", "http") if (self._state / file).exists()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount: {line}" for line in mounts if str(self._state) in line]
        disks = [_text(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")]
        return found + [f"loop device: {file.strip()}" for file in disks if file.startswith(f"{self._state}/")]

    def _cgroups(self) -> list[str]:
        if not self._groups:
            return []
        return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(folder) in self._groups]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Empty if it is gone, or a zombie that only the machine's own init has yet to reap (proc_pid_stat(5))."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if words[:2] == ["Z", "1"] else words[19]


def _groups(pid: int) -> set[str]:
    """The names of the node's trees among the cgroups that `pid` is in."""
    try:
        words = Path(f"/proc/{pid}/cgroup").read_text().replace("\n", "/").split("/")
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {word for word in words if word.startswith("fildes-")}
