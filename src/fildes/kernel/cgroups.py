"""Control groups: limits for a tree of processes, on cgroup v2 where it has the controllers, else on v1.

Names: a node's tree is `fildes-…`, at the top, and below it what the node wants. It lies inside the cgroup in
which the node was started, so that limits on that go on to hold; a process that is in such a tree itself finds
the same place again. Nothing here needs root where a subtree was delegated; where none can be had, `detect`
says None and there are no limits.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from fildes.kernel.fds import Fd

PREFIX: Final = "fildes-"


@dataclass(frozen=True)
class Limits:
    """What a cgroup and all below it may use; None is no limit of its own."""

    memory: int | None = None  # bytes, the kernel's share and anonymous files included; no swap beyond it
    cpu: float | None = None  # cores
    tasks: int | None = None  # processes and threads


class Hierarchy(ABC):
    """Where cgroups can be made, and how. Paths are relative to the place of the node's tree."""

    controllers: frozenset[str]

    def make(self, name: str, limits: Limits = Limits()) -> Cgroup:
        """A new cgroup `name`; one of that name that is there already is killed and removed first."""
        cgroup = self._at(name)
        if cgroup.exists():
            cgroup.kill()
            cgroup.remove()
        self.create(name, limits)
        return cgroup

    def open(self, name: str) -> Cgroup:
        """The cgroup `name` ("fildes-x/services"), which another process made. Raises FileNotFoundError."""
        cgroup = self._at(name)
        if not cgroup.exists():
            raise FileNotFoundError(errno.ENOENT, f"there is no cgroup {name}")
        return cgroup

    def _at(self, name: str) -> Cgroup:
        if not name.startswith(PREFIX) or ".." in name.split("/"):
            raise ValueError(f"a node's cgroup is named {PREFIX}…, not {name!r}")
        return Cgroup(self, name, None)

    @abstractmethod
    def directories(self, path: str) -> list[str]:
        """The directories that make up the cgroup; the first is the one whose lists are read."""

    @abstractmethod
    def create(self, path: str, limits: Limits) -> None:
        """Make it where it is not, and set its limits."""

    @abstractmethod
    def attach(self, path: str, pid: int) -> None: ...

    @abstractmethod
    def entrances(self, path: str) -> list[Fd]: ...

    @abstractmethod
    def oom_kills(self, path: str) -> int:
        """Of this cgroup and those below it now."""

    @abstractmethod
    def kill(self, path: str) -> None:
        """SIGKILL to every process in it and below, those just being forked too."""

    keeps_counts = False  # whether `oom_kills` goes on counting what was in children that are removed
    freezes = True  # whether `set_frozen` can be called

    @abstractmethod
    def set_frozen(self, path: str, frozen: bool) -> None: ...

    @abstractmethod
    def usage(self, path: str) -> dict[str, float]: ...


class Cgroup:
    """One cgroup. The object holds no descriptor: dropping it leaves the cgroup where it is."""

    def __init__(self, hierarchy: Hierarchy, path: str, parent: Cgroup | None) -> None:
        self._hierarchy = hierarchy
        self.path = path
        self._parent = parent
        self._departed = 0  # kills counted in children that were removed

    def __repr__(self) -> str:
        return f"Cgroup({self.path})"

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self._hierarchy.directories(self.path))

    def child(self, name: str, limits: Limits = Limits()) -> Cgroup:
        """The cgroup `name` in this one, made if it is not there; its limits are set either way."""
        path = f"{self.path}/{name}"
        self._hierarchy.create(path, limits)
        return Cgroup(self._hierarchy, path, self)

    def attach(self, pid: int) -> None:
        """Move the process `pid`, with all its threads, here. Raises ProcessLookupError if it is gone."""
        self._hierarchy.attach(self.path, pid)

    def entrances(self) -> list[Fd]:
        """Descriptors by which a process puts itself here: `enter` writes to each. Owned by the caller.

        A move of oneself spares the kernel a grace period: 0.1 ms instead of 5–10 on v1 (on v2 it does not). Who holds
        them can move processes that it sees into this cgroup, and do nothing else with them.
        """
        return self._hierarchy.entrances(self.path)

    def procs(self) -> list[int]:
        """The pids in it and below, as our pid namespace numbers them."""
        return [pid for directory in _subtree(self._hierarchy.directories(self.path)[0]) for pid in _pids(directory)]

    def oom_kills(self) -> int:
        """How many processes the kernel killed here and below for want of memory; removed children count too."""
        return self._hierarchy.oom_kills(self.path) + self._departed

    def kill(self) -> None:
        """SIGKILL to every process in it and below. They may take a moment to be gone."""
        self._hierarchy.kill(self.path)

    @property
    def freezes(self) -> bool:
        """Whether it can be frozen: cgroup v1 may lack that controller."""
        return self._hierarchy.freezes

    def freeze(self) -> None:
        """Stop all in it and below; returns when they stand, or after 0.1 s."""
        self._hierarchy.set_frozen(self.path, True)

    def thaw(self) -> None:
        self._hierarchy.set_frozen(self.path, False)

    def usage(self) -> dict[str, float]:
        """What it uses with all below: "memory", "memory_peak" (bytes), "tasks", and where it is counted "cpu" (s)."""
        return self._hierarchy.usage(self.path)

    def remove(self, timeout: float = 0.5) -> None:
        """Remove it and those below. Killed processes get `timeout` seconds to be gone; else OSError (EBUSY)."""
        deadline = time.monotonic() + timeout
        counted = self._count_before_removal()
        while True:
            try:
                for directory in self._hierarchy.directories(self.path):
                    _remove_tree(directory)
                break
            except OSError as error:
                if error.errno != errno.EBUSY or not _await_one_end(self.procs(), deadline):
                    raise
        if self._parent is not None and not self._hierarchy.keeps_counts:
            self._parent._departed += counted

    def _count_before_removal(self) -> int:
        try:
            return self.oom_kills()
        except FileNotFoundError:
            return 0


def enter(entrances: Iterable[int]) -> None:
    """Put this process, which has one thread, where `entrances` (borrowed) lead."""
    for fd in entrances:
        os.write(fd, b"0")


def detect() -> Hierarchy | None:
    """The hierarchy in which this process may make cgroups: v2 if it has memory and pids there, else v1, else None."""
    from fildes.kernel import cgroup_v1, cgroup_v2  # they build on this module

    return cgroup_v2.detect() or cgroup_v1.detect()


# --- what both versions use


def place(own: str) -> str:
    """The path, without any `fildes-…` and what is below it: where a node's tree goes.

    What has a dot is none of ours, but a unit of systemd ("fildes-anna.service").
    """
    parts = [part for part in own.split("/") if part]
    ours = (i for i, part in enumerate(parts) if part.startswith(PREFIX) and "." not in part)
    inside = next(ours, len(parts))
    return "".join(f"/{part}" for part in parts[:inside])


@dataclass(frozen=True)
class Mount:
    """A cgroup file system: what of it is mounted (`root`), where, and its options."""

    type: str
    root: str
    point: str
    options: frozenset[str]


def mounts() -> list[Mount]:
    """The cgroup file systems of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        type, _, options = after.split(" ", 2)
        if type in ("cgroup", "cgroup2"):
            root, point = before.split(" ")[3:5]
            found.append(Mount(type, root, point, frozenset(options.split(","))))
    return found


def own_paths() -> dict[str, str]:
    """This process's cgroup by controller; v2's under "" (cgroups(7), /proc/self/cgroup)."""
    return {
        controller: path
        for _, controllers, path in (line.split(":", 2) for line in _lines("/proc/self/cgroup"))
        for controller in controllers.split(",")
    }


def read(directory: str, name: str) -> str:
    with open(f"{directory}/{name}", encoding="ascii") as file:
        return file.read()


def write(directory: str, name: str, value: object) -> None:
    # One write(2) of the whole value: the kernel takes each write as a command.
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        raise OSError(error.errno, f"{directory}/{name}: {value} refused: {error.strerror}") from error
    finally:
        os.close(fd)


def make_directory(directory: str) -> bool:
    """Whether it was not there before."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    return True


def signal_all(directory: str) -> int:
    """SIGKILL to all in the tree of `directory`; how many there were."""
    count = 0
    for part in _subtree(directory):
        for pid in _pids(part):
            count += 1
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    return count


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()


def _pids(directory: str) -> list[int]:
    try:
        # v2 shows a process that our pid namespace does not see as 0, which kill(2) takes for our own group.
        return [pid for word in read(directory, "cgroup.procs").split() if (pid := int(word)) > 0]
    except OSError:  # removed meanwhile: ENOENT or ENODEV
        return []


def _subtree(directory: str) -> Iterator[str]:
    """`directory` and all below it, the deepest first."""
    for below, _, _ in os.walk(directory, topdown=False):
        yield below


def _remove_tree(directory: str) -> None:
    for below in _subtree(directory):
        try:
            os.rmdir(below)
        except FileNotFoundError:
            continue


def _await_one_end(pids: list[int], deadline: float) -> bool:
    """Wait until one of `pids` is gone; False when none ended before `deadline`."""
    poll = select.poll()
    opened = []
    try:
        for pid in pids:
            try:
                opened.append(os.pidfd_open(pid))
            except ProcessLookupError:
                return True
            poll.register(opened[-1], select.POLLIN)
        left = deadline - time.monotonic()
        # No process, and busy: an exit that is not quite through. A millisecond passes by waiting for nothing.
        return left > 0 and (bool(poll.poll(min(left * 1000, 1000 if opened else 1))) or not opened)
    finally:
        for fd in opened:
            os.close(fd)
