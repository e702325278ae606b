"""The current releases of the node, as the catalogue tells them: packed, because most of them sleep.

Ten thousand of them as objects are ten thousand times 1.5 KiB; as the bytes in which they came, a third.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from fildes.orchestrator.scale import stands
from fildes.wire.catalogue import Release

_release = msgspec.msgpack.Decoder(Release)
_encode = msgspec.msgpack.Encoder().encode


class _Label(msgspec.Struct):
    id: str
    service: str
    owner: str
    runtime: str
    limits: _Limits


class _Limits(msgspec.Struct):
    spares: int = 0


_label = msgspec.msgpack.Decoder(_Label)


class Shelf(Mapping[str, Release]):
    """By id. What is got is made anew each time."""

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}
        self.standing: set[str] = set()  # ids of those that want instances though nobody asks: see scale.stands

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __contains__(self, release: object) -> bool:
        return release in self._packed

    def __getitem__(self, release: str) -> Release:
        return _release.decode(self._packed[release])

    def of_service(self, service: str) -> Release | None:
        """The current one of that name; every label is looked at."""
        for release, packed in self._packed.items():
            if _label.decode(packed).service == service:
                return self[release]
        return None

    def names(self, owner: str | None = None) -> list[tuple[str, str]]:
        """(service, id) of all of them, or of one owner's, by name."""
        labels = map(_label.decode, self._packed.values())
        return sorted((label.service, label.id) for label in labels if owner in (None, label.owner))

    def replace(self, packed: Iterable[msgspec.Raw]) -> set[str]:
        """All of them, anew; the ids of those that are gone. Raises ValidationError, and then changes nothing."""
        new, standing = {}, set()
        for one in packed:
            data = bytes(one)
            label = _label.decode(data)
            new[label.id] = data
            if stands(label.runtime, label.limits.spares):
                standing.add(label.id)
        gone = self._packed.keys() - new.keys()
        self._packed, self.standing = new, standing
        return gone

    def put(self, release: Release) -> None:
        self._packed[release.id] = _encode(release)
        if stands(release.runtime, release.limits.spares):
            self.standing.add(release.id)

    def remove(self, release: str) -> None:
        self._packed.pop(release, None)
        self.standing.discard(release)
