"""What of a release each audience is shown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from fildes.catalogue.policy import split
from fildes.wire.catalogue import (
    Manifest,
    Release,
    ReleaseDelta,
    Rights,
    RightsDelta,
    Route,
    RouteDelta,
    State,
)


def release(
    manifest: Manifest, id: str, owner: str, uid: int, state: State, bundle: str, pack: str, abi: str
) -> Release:
    return Release(
        id=id,
        service=manifest.name,
        owner=owner,
        runtime=manifest.runtime,
        entry=manifest.entry,
        hosts=manifest.hosts,
        env=manifest.env,
        grants=manifest.grants,
        limits=manifest.limits,
        offers=manifest.offers,
        bundle=bundle,
        pack=pack,
        abi=abi,
        uid=uid,
        state=state,
        on_release=manifest.on_release,
        health=manifest.health,
    )


def routes(of: Release) -> list[Route]:
    return [
        Route(
            host=host,
            prefix=prefix,
            service=of.service,
            release=of.id,
            owner=of.owner,
            runtime=of.runtime,
            body=of.limits.body,
            timeout=of.limits.timeout,
            connections=of.limits.connections,
        )
        for host, prefix in map(split, of.hosts)
    ]


def rights(of: Release) -> Rights:
    names = [name.rpartition("/")[2] for name in of.offers]
    return Rights(release=of.id, service=of.service, owner=of.owner, grants=of.grants, offers=names)


def delta(audience: str, after: int, number: int, put: Sequence[Release], gone: Sequence[str]) -> msgspec.Struct:
    """The event that tells `audience` of a change."""
    found: msgspec.Struct = _DELTAS[audience](after, number, put, list(gone))
    return found


def _routes_delta(after: int, number: int, put: Sequence[Release], gone: list[str]) -> RouteDelta:
    return RouteDelta(after, number, [route for of in put for route in routes(of)], gone)


def _static_delta(after: int, number: int, put: Sequence[Release], gone: list[str]) -> RouteDelta:
    return _routes_delta(after, number, [of for of in put if of.runtime == "static"], gone)


def _rights_delta(after: int, number: int, put: Sequence[Release], gone: list[str]) -> RightsDelta:
    return RightsDelta(after, number, [rights(of) for of in put], gone)


def _release_delta(after: int, number: int, put: Sequence[Release], gone: list[str]) -> ReleaseDelta:
    return ReleaseDelta(after, number, list(put), gone)


_DELTAS: Final[dict[str, Callable[[int, int, Sequence[Release], list[str]], Any]]] = {
    "web": _routes_delta,
    "static": _static_delta,
    "bus": _rights_delta,
    "orchestrator": _release_delta,
}


def same(one: Manifest, other: Manifest) -> bool:
    """Equal but for where in the file things stand."""
    return _bare(one) == _bare(other)


def _bare(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, filename="", lines={})


def urls(hosts: Sequence[str], listening: Sequence[str]) -> list[str]:
    """Where a browser finds `hosts`, given the "address:port" that the node listens on."""
    port = int(listening[0].rpartition(":")[2]) if listening else 80
    shown = "" if port == 80 else f":{port}"
    found = []
    for host in hosts:
        name, prefix = split(host)
        found.append(f"http://{name}{shown}{prefix if prefix == '/' else prefix + '/'}")
    return found
