"""The node's cgroups: one a daemon, and one in which the orchestrator makes those of the releases.

fildes-<node>/daemons/<name>      fildes-<node>/services
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from fildes.kernel import cgroups

SERVICES: Final = "services"


class Box:
    """One daemon's cgroup."""

    def __init__(self, cgroup: cgroups.Cgroup) -> None:
        self._cgroup = cgroup

    def enter(self) -> None:
        """Move the calling process into it."""
        self._cgroup.attach(os.getpid())

    def clear(self) -> None:
        """Kill what a daemon that has ended left running there."""
        self._cgroup.kill()


class Boxes:
    """None of them where the machine or the user has no cgroups to give."""

    def __init__(self, node: cgroups.Cgroup | None, daemons: Sequence[str]) -> None:
        self._node = node
        if node is None:
            self._boxes: dict[str, Box] = {}
            return
        node.child(SERVICES)
        group = node.child("daemons")
        self._boxes = {name: Box(group.child(name)) for name in daemons}

    @classmethod
    def make(cls, name: str, daemons: Sequence[str]) -> Boxes:
        """The node's, from nothing: what a killed node of this name left is killed and removed first."""
        hierarchy = cgroups.detect()
        if hierarchy is None:
            return cls(None, daemons)
        return cls(hierarchy.make(name), daemons)

    @classmethod
    def open(cls, name: str | None, daemons: Sequence[str]) -> Boxes:
        """The node's, as they are."""
        hierarchy = cgroups.detect() if name is not None else None
        if hierarchy is None or name is None:
            return cls(None, daemons)
        return cls(hierarchy.open(name), daemons)

    def of(self, daemon: str) -> Box | None:
        return self._boxes.get(daemon)

    @property
    def name(self) -> str | None:
        """The node's, None if there are none."""
        return self._node.path if self._node is not None else None


def remove(name: str | None) -> None:
    """Kill all that runs in the node's cgroups, and remove them, if they are there. Raises OSError if one stays."""
    hierarchy = cgroups.detect() if name is not None else None
    if hierarchy is None or name is None:
        return
    try:
        node = hierarchy.open(name)
    except FileNotFoundError:
        return
    node.kill()
    node.remove()
