"""May this release have what it asks for, and who opens it? Pure: tables in, a decision out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fildes.capabilities.connect.grant import SERVICE, service_of
from fildes.capabilities.kind import grant_lines
from fildes.capabilities.kinds import DECLARED, driver_of
from fildes.wire.catalogue import Grant, Rights, RightsDelta


class Introduce(NamedTuple):
    """Connect the asker with a service: by a stream of which `release` gets the other end."""

    grant: Grant
    service: str
    release: str


class AskDriver(NamedTuple):
    """`driver`.open it, with `options` as the driver sees them."""

    grant: Grant
    driver: str
    options: dict[str, Any]


class Refuse(NamedTuple):
    """`grant`: the lines of a manifest that would have allowed it, where lines would."""

    code: str
    text: str
    grant: str | None = None


class Table:
    """The rights of all current releases, as the catalogue tells them."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the last change; None: waiting for a snapshot
        self._by_release: dict[str, Rights] = {}
        self._by_service: dict[str, Rights] = {}

    def replace(self, number: int, rights: Iterable[Rights]) -> set[str]:
        """Take a whole snapshot in. Returns the releases that are no longer there."""
        before = set(self._by_release)
        self._by_release = {each.release: each for each in rights}
        self._by_service = {each.service: each for each in self._by_release.values()}
        self.number = number
        return before - set(self._by_release)

    def apply(self, delta: RightsDelta) -> None:
        """Take a change in that follows on what is held (`wire.catalogue.follow`)."""
        for release in delta.gone:
            gone = self._by_release.pop(release, None)
            if gone is not None and self._by_service.get(gone.service) is gone:
                del self._by_service[gone.service]
        for each in delta.put:
            self._by_release[each.release] = self._by_service[each.service] = each
        self.number = delta.number

    def of_release(self, release: str) -> Rights | None:
        return self._by_release.get(release)

    def of_service(self, service: str) -> Rights | None:
        return self._by_service.get(service)


def decide(rights: Rights, name: str, table: Table) -> Introduce | AskDriver | Refuse:
    """What happens when an instance with `rights` opens `name`."""
    grant = next((each for each in rights.grants if each.name == name), None)
    if grant is None:
        text = f"{rights.service} asked for {name[:64]!r} and was granted nothing of that name"
        held = ", ".join(each.name for each in rights.grants)
        return Refuse("no-grant", f"{text}; it holds {held or 'no grants'}", _lines_for(name))
    if grant.kind not in DECLARED:
        return Refuse("no-kind", f"the grant {name!r} of {rights.service} is of the kind {grant.kind!r}, unknown here")
    driver = driver_of(grant.kind, grant.to)
    if driver == "":
        return Refuse("not-opened", f"nothing is opened for the kind {grant.kind}: its paths are simply there")
    if driver != "bus":
        options = dict(grant.options) if grant.to is None else {**grant.options, "to": grant.to}
        return AskDriver(grant, driver, options)
    return _introduce(rights, grant, table)


def _introduce(rights: Rights, grant: Grant, table: Table) -> Introduce | Refuse:
    to = service_of(grant.to or "")
    if to is None:
        return Refuse("bad-grant", f"the grant {grant.name!r} of {rights.service} leads to {grant.to!r}, no service")
    asked = f"{rights.service} asked for {grant.name!r}, a connection to {to}"
    target = table.of_service(to)
    if target is None:
        return Refuse("no-service", f"{asked}: no service of that name is published; see: fildes ps")
    if rights.service not in target.offers:
        text = f"{asked}: {to} does not offer itself to {rights.service}; these lines in the manifest of {to} would"
        return Refuse("not-offered", text, f'[offers]\nto = ["{rights.service}"]')
    return Introduce(grant, to, target.release)


def _lines_for(name: str) -> str | None:
    """The best guess at the lines that were meant."""
    kind = DECLARED.get(name)
    if kind is not None and not any(required for _, required, _ in kind.options.values()):
        return grant_lines(name, name)
    return grant_lines(name, "connect", name) if SERVICE.fullmatch(name) else None
