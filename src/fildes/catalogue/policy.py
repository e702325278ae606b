"""What an owner's manifests may claim, as a function of data: no I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fildes.capabilities.connect.grant import service_of
from fildes.capabilities.files import grant as files
from fildes.capabilities.sqlite import grant as sqlite
from fildes.manifest.problems import Problem, quote
from fildes.wire.catalogue import Grant, Manifest, Policy


class Holder(NamedTuple):
    """Who has a prefix of a host now."""

    prefix: str
    service: str
    owner: str


class Target(NamedTuple):
    """A service that something wants to connect to."""

    owner: str
    offers: list[str]


@dataclass(frozen=True)
class Facts:
    """What the database says about the names in one manifest.

    `targets` lacks the services that do not exist. `services` is how many the owner has, this one not
    counted. `data`: bytes of the quotas of its databases and trees.
    """

    service_owner: str | None = None
    services: int = 0
    hosts: Mapping[str, list[Holder]] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    data: int = 0


@dataclass(frozen=True)
class Sizes:
    bundle: int
    pack: int


def split(host: str) -> tuple[str, str]:
    """ "host/a" → ("host", "/a"); "host" → ("host", "/")."""
    name, _, prefix = host.partition("/")
    return name, f"/{prefix}"


def secret_of(grant: Grant) -> str:
    """The name of the secret that a grant of kind secret is for."""
    named = grant.options.get("secret")
    return named if isinstance(named, str) else grant.name


def matches(host: str, suffix: str) -> bool:
    """ "*.localhost": any name below it; "example.org": itself; "*": everything."""
    if suffix == "*":
        return True
    return host.endswith(suffix[1:]) and len(host) >= len(suffix) if suffix.startswith("*.") else host == suffix


def limit(manifest: Manifest, policy: Policy) -> int:
    """The most bytes that a bundle of this sort may have."""
    return policy.static_bytes if manifest.runtime == "static" else policy.program_bytes


def check(manifest: Manifest, owner: str, policy: Policy, facts: Facts) -> list[Problem]:
    """Everything that this manifest claims and `owner` may not have."""
    return [
        *_name(manifest, owner, policy, facts),
        *_hosts(manifest, owner, policy, facts),
        *_grants(manifest, owner, policy, facts),
        *_limits(manifest, policy),
        *_data(manifest, policy, facts),
    ]


def check_sizes(manifest: Manifest, policy: Policy, stored: int, sizes: Sizes) -> list[Problem]:
    """What is too large about its files, when `stored` bytes are those of the owner's other services."""
    found = []
    most = limit(manifest, policy)
    # A program's pack has its dependencies and byte code; a site's has its files in up to two more codings.
    times = 3 if manifest.runtime == "static" else 2
    for what, size, bound in (("its files", sizes.bundle, most), ("its pack", sizes.pack, times * most)):
        if size > bound:
            text = f"{what} are {size:,} bytes" if what.endswith("s") else f"{what} is {size:,} bytes"
            found.append(Problem(0, f"{text}; a {manifest.runtime} service may have {bound:,}", "leave files out"))
    total = stored + sizes.bundle + sizes.pack
    if total > policy.storage:
        text = f"with it this owner's files would take {total:,} bytes; the policy allows {policy.storage:,}"
        found.append(Problem(0, text, "remove a service that is no longer used: fildes rm NAME"))
    return found


def _at(manifest: Manifest, *path: object) -> int:
    """The line of `path`, or of the nearest thing around it."""
    keys = [str(key) for key in path]
    for end in range(len(keys), 0, -1):
        line = manifest.lines.get(".".join(keys[:end]))
        if line:
            return line
    return 0


def _name(manifest: Manifest, owner: str, policy: Policy, facts: Facts) -> list[Problem]:
    if facts.service_owner not in (None, owner):
        text = f"name: a service {quote(manifest.name)} exists, and it belongs to another owner"
        return [Problem(_at(manifest, "name"), text, "choose another name")]
    if facts.service_owner is None and facts.services >= policy.services:
        text = f"this owner has {facts.services} services, and the policy allows {policy.services}"
        return [Problem(_at(manifest, "name"), text, "remove one: fildes rm NAME")]
    return []


def _hosts(manifest: Manifest, owner: str, policy: Policy, facts: Facts) -> list[Problem]:
    found = []
    for index, claimed in enumerate(manifest.hosts):
        line = _at(manifest, "hosts", index)
        host, prefix = split(claimed)
        if not any(matches(host, suffix) for suffix in policy.suffixes):
            text = f"hosts[{index}]: {quote(host)} is outside of what this owner may use: {', '.join(policy.suffixes)}"
            found.append(Problem(line, text, f"use {manifest.name}.localhost, or ask an operator for a wider policy"))
            continue
        for holder in facts.hosts.get(host, ()):
            if holder.owner != owner:
                # Pages of one host share cookies and origin: it must not be split between owners.
                text = f"hosts[{index}]: the host {quote(host)} is in use by a service of another owner"
                found.append(Problem(line, text, "choose another host"))
                break
            if holder.prefix == prefix and holder.service != manifest.name:
                text = f"hosts[{index}]: {quote(claimed)} is already served by the service {quote(holder.service)}"
                hint = f"choose another host or a prefix, or remove it there: fildes rm {holder.service}"
                found.append(Problem(line, text, hint))
    return found


def _grants(manifest: Manifest, owner: str, policy: Policy, facts: Facts) -> list[Problem]:
    found = []
    for grant in manifest.grants:
        where = f"grants.{grant.name}"
        if grant.kind not in policy.kinds:
            allowed = ", ".join(policy.kinds)
            text = f"{where}: the kind {quote(grant.kind)} is not allowed to this owner; allowed: {allowed}"
            found.append(Problem(_at(manifest, "grants", grant.name, "kind"), text, "an operator can widen the policy"))
        elif grant.kind == "connect":
            found += _connect(manifest, owner, facts, grant)
            if grant.options.get("private") and not policy.private:
                text = f"{where}.private: this owner may not reach this machine and its networks"
                hint = f"leave it out, or ask an operator: fildes policy {owner} private=true"
                found.append(Problem(_at(manifest, "grants", grant.name, "private"), text, hint))
        elif grant.kind == "secret" and secret_of(grant) not in facts.secrets:
            text = f"{where}: no secret {quote(secret_of(grant))} is set for {manifest.name}"
            hint = f"set it: fildes secret set {manifest.name} {secret_of(grant)}"
            found.append(Problem(_at(manifest, "grants", grant.name, "secret"), text, hint))
    return found


def _connect(manifest: Manifest, owner: str, facts: Facts, grant: Grant) -> list[Problem]:
    line = _at(manifest, "grants", grant.name, "to")
    where = f"grants.{grant.name}.to"
    name = service_of(grant.to) if grant.to is not None else None
    if name is None:  # an address outside: the net driver's
        return []
    target = Target(owner, manifest.offers) if name == manifest.name else facts.targets.get(name)
    if target is None:
        return [Problem(line, f"{where}: there is no service {quote(name)}", f"publish {name} first")]
    asked = manifest.name if target.owner == owner else f"{owner}/{manifest.name}"
    if asked in target.offers or f"{owner}/{manifest.name}" in target.offers:
        return []
    text = f"{where}: {quote(name)} does not offer itself to {quote(manifest.name)}"
    return [Problem(line, text, f'the manifest of {name} must say: [offers] to = ["{asked}"]')]


def _limits(manifest: Manifest, policy: Policy) -> list[Problem]:
    found = []
    limits = manifest.limits
    for name, asked, most in (
        ("memory", limits.memory, policy.memory),
        ("cpu", limits.cpu, policy.cpu),
        ("tasks", limits.tasks, policy.tasks),
        ("concurrency", limits.concurrency, policy.concurrency),
        ("instances", limits.instances + limits.spares, policy.instances),
        ("log", limits.log, policy.log),
    ):
        if asked > most:
            text = f"limits.{name}: {asked:,} is above what this owner may give a service: {most:,}"
            found.append(Problem(_at(manifest, "limits", name), text, f"at most {name} = {most}"))
    return found


def data_of(manifest: Manifest) -> int:
    """The sum of the quotas of what a manifest's grants keep, bytes."""
    names = lasting(manifest)
    return sum(
        sqlite.quota_of(grant.options) if grant.kind == "sqlite" else files.quota_of(grant.options)
        for grant in manifest.grants
        if grant.name in names
    )


def lasting(manifest: Manifest) -> set[str]:
    """The names of its grants of what lasts, its own."""
    return {
        grant.name
        for grant in manifest.grants
        if (grant.kind == "sqlite" and "of" not in grant.options) or (grant.kind == "files" and "path" in grant.options)
    }


def _data(manifest: Manifest, policy: Policy, facts: Facts) -> list[Problem]:
    asked = data_of(manifest)
    if not asked or asked + facts.data <= policy.data:
        return []
    text = f"grants: with it this owner's databases and trees could take {asked + facts.data:,} bytes"
    return [
        Problem(
            _at(manifest, "grants"),
            f"{text}; the policy allows {policy.data:,}",
            'a smaller quota, such as quota = "64MiB"; what is kept of services and grants that are no more counts too',
        )
    ]
