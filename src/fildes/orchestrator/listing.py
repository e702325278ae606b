"""What `fildes ps` shows of a service: of one that sleeps, what its release says."""

from __future__ import annotations

from fildes.orchestrator import scale
from fildes.orchestrator.instances import Instance
from fildes.orchestrator.plan import State
from fildes.orchestrator.supervised import Supervised
from fildes.orchestrator.wishes import DONE, FROZEN, STOPPED, Wishes
from fildes.wire.catalogue import Release
from fildes.wire.orchestrator import InstanceState, ServiceState


def service(
    release: Release, supervised: Supervised | None, commands: list[InstanceState], wishes: Wishes
) -> ServiceState:
    zygote = supervised.nursery.zygote if supervised is not None else None
    held = zygote.held if zygote is not None else {}
    bounds = supervised.bounds() if supervised is not None else scale.bounds(release)
    static = release.runtime == "static"
    state, note = ("serving", "") if static else _how(release, supervised, wishes)
    return ServiceState(
        service=release.service,
        owner=release.owner,
        release=release.id,
        runtime=release.runtime,
        state=state,
        hosts=release.hosts,
        instances=[instance(one, held) for one in (supervised.crew if supervised is not None else ())],
        grants=release.grants,
        held=held,
        zygote=zygote.pid if zygote is not None else None,
        starts=supervised.orders.given if supervised is not None else 0,
        crashes=supervised.crashes if supervised is not None else 0,
        most=0 if static else bounds.most,
        spares=0 if static or release.runtime == "service" else min(release.limits.spares, bounds.most),
        note=note,
        commands=commands,
    )


def _how(release: Release, supervised: Supervised | None, wishes: Wishes) -> tuple[str, str]:
    """Its state in a word, and why, where that isn't plain."""
    name = release.service
    if wishes.has(release.id, FROZEN):
        return "frozen", f"it stands still, and who connects waits; let it go on: fildes thaw {name}"
    if wishes.has(release.id, STOPPED) and not (supervised is not None and supervised.crew):
        return "stopped", f"start it again: fildes start {name}"
    if wishes.has(release.id, DONE):
        return "done", f"its main has returned; run it again: fildes start {name}"
    if supervised is None:
        return State.ASLEEP, ""
    return supervised.state, supervised.note


def instance(one: Instance, zygotes: dict[str, str]) -> InstanceState:
    """`zygotes`: what its zygote was given, and it has with it."""
    one.hear()
    memory = int(one.cgroup.usage().get("memory", 0)) if one.cgroup is not None else None
    held = zygotes | one.held
    return InstanceState(one.name, one.pid, one.started, memory, held, one.timeline, str(one.stage))
