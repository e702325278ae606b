"""What a release's zygote is confined to, as data, and the steps that make it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fildes.kernel import landlock, namespaces
from fildes.sandbox import steps
from fildes.sandbox.steps import Step
from fildes.sandbox.view import Entry

_NAMESPACES: Final = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWUTS
)


@dataclass(frozen=True)
class Plan:
    """`uid` None: there is one user (no root). `limits`: the cgroup's in words, "" where there is none.

    `arguments` is the program's command line, its first word a path within the view; it finds its control socket as
    descriptor steps.CONTROL. `file_size`: the most bytes of a file that it writes, where that is limited.
    `networks` and `scopes` are what Landlock is to deny: what this kernel can, if not said.
    """

    view: tuple[Entry, ...]
    mountpoint: str
    profile: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    uid: int | None = None
    limits: str = ""
    file_size: int | None = None
    hostname: str = "fildes"
    networks: int | None = None
    scopes: int | None = None

    def outer(self) -> list[Step]:
        """What the launcher does, before it forks the process that becomes the program."""
        own_user = namespaces.CLONE_NEWUSER if self.uid is None else 0
        return [steps.JoinCgroup(self.limits), steps.Separate(_NAMESPACES | own_user)]

    def inner(self) -> list[Step]:
        """What that process does; the last step does not return."""
        networks = landlock.networks() if self.networks is None else self.networks
        scopes = landlock.scopes() if self.scopes is None else self.scopes
        return [
            steps.AwaitTracer(),
            steps.OwnSession(self.hostname),
            steps.EnterView(self.mountpoint, self.view, self.cwd),
            steps.ArrangeDescriptors(),
            steps.LimitResources(self._process_limits()),
            steps.GiveUpPrivileges(self.uid),
            steps.DenyOutward(networks, scopes),  # needs no-new-privs
            steps.Filter(self.profile),
            steps.Exec(self.arguments, self.environment),
        ]

    def _process_limits(self) -> tuple[tuple[str, int], ...]:
        size = () if self.file_size is None else (("FSIZE", self.file_size),)
        return (("CORE", 0), *size)

    def describe(self) -> list[str]:
        """A line a step, in their order; further lines of a step are indented."""
        return [line for step in (*self.outer(), *self.inner()) for line in step.describe().split("\n")]
