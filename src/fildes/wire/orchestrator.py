"""What the orchestrator answers: warming, conveyors, and who runs."""

from __future__ import annotations

import msgspec

from fildes.wire.catalogue import Grant, Release


class Warm(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.warm (catalogue only): load this candidate, turn the ratchet, run its on_release commands, start one
    instance of it, ask for its health. `ticket`: of the publish that is told how it goes. Refused: "on_release.N" and
    "health" where the manifest's line of that name failed."""

    release: Release
    ticket: str = ""


class Warmed(msgspec.Struct, forbid_unknown_fields=True):
    phases: dict[str, float]  # name → milliseconds, in the order in which they happened


class GetConveyor(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.conveyor (web, bus): answered with a duplicate of the sending end."""

    release: str


class Stop(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.stop → Stopped: end the instances and the zygote of a service. The next request starts it again; a
    `service`, which nobody requests, stays so until `Start`, the next publish or a rollback."""

    service: str


class Stopped(msgspec.Struct, forbid_unknown_fields=True):
    instances: int
    stays: bool = False  # until it is started


class Start(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.start → Started: run one that was stopped, or halted for its crashes; answered when it serves."""

    service: str


class Started(msgspec.Struct, forbid_unknown_fields=True):
    instances: int


class Freeze(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.freeze → Frozen: its processes stand still, and who connects waits, until `Thaw`, the next publish
    or a rollback."""

    service: str


class Frozen(msgspec.Struct, forbid_unknown_fields=True):
    instances: int


class Thaw(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.thaw → Thawed."""

    service: str


class Thawed(msgspec.Struct, forbid_unknown_fields=True):
    instances: int


class Run(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.run + [lease, stdin, stdout, stderr] → Running: one command of a service; see wire/command.py.

    `release`: another than the current one. `terminal`: its kind, of the streams that are one (TERM, terminfo(5)). The
    answer comes when the command was started; how it ends, the lease tells."""

    service: str
    arguments: list[str]
    release: str | None = None
    terminal: str = ""


class Running(msgspec.Struct, forbid_unknown_fields=True):
    release: str
    id: str


class InstanceState(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    pid: int  # in the orchestrator's PID namespace; −1 until the kernel has attested it
    started: float  # wall clock, seconds
    memory: int | None  # bytes, where a memory cgroup is at hand
    held: dict[str, str]  # what it was given: name of the description (kernel/fds.py's `name`) → why
    timeline: dict[str, float]  # CLOCK_MONOTONIC in seconds: wanted, ordered, up, ready
    stage: str = ""  # one of orchestrator/life.py's Stage


class ServiceState(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    owner: str
    release: str
    runtime: str
    state: str  # one of orchestrator/plan.py's State; or "serving" (static), "stopped", "frozen", "done"
    hosts: list[str]
    instances: list[InstanceState]
    grants: list[Grant]
    zygote: int | None  # pid
    held: dict[str, str]  # what the zygote was given
    starts: int
    crashes: int
    most: int  # instances that it may have
    spares: int  # of them those that stand by, if that is possible
    note: str  # why it is as it is, when that isn't plain: a crash loop, threads at load, the last exit
    commands: list[InstanceState] = []  # `fildes run`, of this release and of others of the service


class Ps(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.ps → Empty + [sealed memfd of a PsReply], by name; an empty `service` means all of them, `owner`
    those of one. Of those that have no processes at most `quiet` are listed (None: all), and `more` counts the rest."""

    service: str = ""
    owner: str | None = None
    quiet: int | None = None


class PsReply(msgspec.Struct, forbid_unknown_fields=True):
    services: list[ServiceState]
    more: int = 0


class Plan(msgspec.Struct, forbid_unknown_fields=True):
    """orchestrator.plan: how a service's current release is confined, in words."""

    service: str


class PlanReply(msgspec.Struct, forbid_unknown_fields=True):
    steps: list[str]
