"""Which daemon may ask what of whom. Allow-list: what is not here is refused. Pure.

The daemon that answers is the word before the dot. Tenants are not in this table: they ask the bus itself, and only
what `tenants.py` knows.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

# A daemon's number is the upper part of the ids under which its requests are forwarded. It stays the same over
# restarts of the bus, so that whoever answers can tell a request sent again from a new one. Append, never reorder.
NUMBERS: Final = MappingProxyType(
    {
        name: number
        for number, name in enumerate(
            (
                "bus",
                "log",
                "shared",
                "net",
                "inspect",
                "catalogue",
                "orchestrator",
                "static",
                "web",
                "publish",
                "debug",
                "storage",
            ),
            start=1,
        )
    }
)

ANYBODY: Final = frozenset(NUMBERS)

# verb → who may send it.
ALLOWED: Final = MappingProxyType(
    {
        "bus.channel": frozenset({"orchestrator"}),
        "bus.close": frozenset({"orchestrator"}),
        "bus.delta": frozenset({"catalogue"}),
        "bus.denials": frozenset({"debug"}),
        "bus.status": frozenset({"debug"}),
        "catalogue.subscribe": frozenset({"web", "static", "bus", "orchestrator"}),
        "catalogue.publish": frozenset({"publish"}),
        "catalogue.pack": frozenset({"orchestrator", "static"}),
        "catalogue.known": frozenset({"publish"}),
        "catalogue.sources": frozenset({"publish"}),
        "catalogue.open": frozenset({"bus", "orchestrator"}),
        "catalogue.release": frozenset({"orchestrator"}),
        "catalogue.releases": frozenset({"debug"}),
        "catalogue.rollback": frozenset({"debug"}),
        "catalogue.remove": frozenset({"debug"}),
        "catalogue.services": frozenset({"debug"}),
        "catalogue.secret_set": frozenset({"debug"}),
        "catalogue.secret_rm": frozenset({"debug"}),
        "catalogue.secret_list": frozenset({"debug"}),
        "catalogue.prune": frozenset({"debug"}),
        "catalogue.copy": frozenset({"debug"}),
        "catalogue.logins": frozenset({"debug"}),
        "catalogue.login_add": frozenset({"debug"}),
        "catalogue.login_rm": frozenset({"debug"}),
        "catalogue.policy_get": frozenset({"debug"}),
        "catalogue.policy_set": frozenset({"debug"}),
        "orchestrator.delta": frozenset({"catalogue"}),
        "orchestrator.warm": frozenset({"catalogue"}),
        "orchestrator.cancel": frozenset({"debug"}),
        "orchestrator.conveyor": frozenset({"web", "bus"}),
        "orchestrator.ps": frozenset({"debug"}),
        "orchestrator.instances": frozenset({"debug"}),
        "orchestrator.stop": frozenset({"debug"}),
        "orchestrator.start": frozenset({"debug"}),
        "orchestrator.freeze": frozenset({"debug"}),
        "orchestrator.thaw": frozenset({"debug"}),
        "orchestrator.run": frozenset({"debug"}),
        "orchestrator.plan": frozenset({"debug"}),
        "web.delta": frozenset({"catalogue"}),
        "web.conveyor": frozenset({"orchestrator"}),
        "web.died": frozenset({"orchestrator"}),
        "web.retired": frozenset({"orchestrator"}),
        "web.static_end": frozenset({"static"}),
        "web.probe": frozenset({"orchestrator"}),
        "web.counts": frozenset({"orchestrator", "debug"}),
        "static.delta": frozenset({"catalogue"}),
        "static.mixed": frozenset({"web"}),
        "publish.publish": frozenset({"debug"}),
        "publish.repack": frozenset({"debug"}),
        "publish.lock": frozenset({"debug"}),
        "publish.clean": frozenset({"debug"}),
        "publish.cancel": frozenset({"debug"}),
        "debug.progress": frozenset({"publish", "catalogue", "orchestrator"}),
        "log.open": frozenset({"orchestrator"}),
        "log.append": ANYBODY,
        "log.read": frozenset({"debug"}),
        "log.forget": frozenset({"catalogue", "debug"}),
        "shared.open": frozenset({"bus", "orchestrator"}),
        "net.open": frozenset({"bus", "orchestrator"}),
        "storage.open": frozenset({"bus", "orchestrator"}),
        "storage.tree": frozenset({"orchestrator"}),
        "storage.list": frozenset({"debug"}),
        "storage.kept": frozenset({"debug", "catalogue"}),
        "storage.backup": frozenset({"debug"}),
        "storage.restore": frozenset({"debug"}),
        "storage.remove": frozenset({"debug"}),
        "net.index": frozenset({"publish"}),
        "inspect.fds": frozenset({"debug"}),
    }
)


def target(caller: str, verb: str) -> str | None:
    """The daemon that `verb` of `caller` goes to, or None: it is not allowed."""
    return verb.partition(".")[0] if caller in ALLOWED.get(verb, ()) else None


def may_answer(answerer: str, asker: str) -> bool:
    """Can `asker` have asked `answerer` anything? For an answer whose question an earlier bus had forwarded."""
    return any(asker in who and verb.startswith(answerer + ".") for verb, who in ALLOWED.items())
