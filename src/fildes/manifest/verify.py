"""Is a Manifest that came from another process one that `read` could have made?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fildes.capabilities.kind import Kind, problems
from fildes.capabilities.kinds import DECLARED, together
from fildes.manifest import words
from fildes.manifest.problems import Problem, quote
from fildes.manifest.words import Wrong
from fildes.wire.catalogue import Manifest


def verify(manifest: Manifest, kinds: Mapping[str, Kind] = DECLARED) -> list[Problem]:
    """What could not have been read from a file, a problem each; of a manifest that `read` made: nothing."""
    found: list[Problem] = []

    def must(good: bool, what: str, value: object) -> None:
        if not good:
            found.append(Problem(0, f"{what}: {quote(value)} was not made by this version's manifest reader"))

    must(words.SERVICE.fullmatch(manifest.name) is not None, "name", manifest.name)
    runs = words.ENTRY.fullmatch(manifest.entry) is not None if manifest.runtime != "static" else not manifest.entry
    must(runs, "entry", manifest.entry)
    for host in manifest.hosts:
        must(_fixed(words.route, host), "hosts", host)
    for service in manifest.offers:
        must(_fixed(words.offered, service), "offers.to", service)
    for command in manifest.on_release:
        must(manifest.runtime != "static" and _fixed(words.command, command), "on_release", command)
    answers = manifest.runtime not in ("static", "service")
    must(not manifest.health or (answers and _fixed(words.health, manifest.health)), "health", manifest.health)
    must(answers or manifest.runtime == "static" or not manifest.hosts, "hosts of a service", manifest.hosts)
    for extra in manifest.extras:
        must(_fixed(words.extra, extra), "extras", extra)
    for name, value in manifest.env.items():
        must(words.env(name) and "\0" not in value, "env", name)
    for grant in manifest.grants:
        must(words.GRANT.fullmatch(grant.name) is not None, "grants", grant.name)
        must(grant.to is None or _fixed(words.target, grant.to), f"grants.{grant.name}.to", grant.to)
        if grant.kind not in kinds:
            must(False, f"grants.{grant.name}.kind", grant.kind)
            continue
        options = grant.options if grant.to is None else {**grant.options, "to": grant.to}
        found += [Problem(0, f"grants.{grant.name}: {text}") for text in problems(kinds[grant.kind], options)]
    for name, text in together([(grant.name, grant.kind, grant.options) for grant in manifest.grants]):
        found.append(Problem(0, f"grants.{name}: {text}"))
    limits = manifest.limits
    ranges: tuple[tuple[float, tuple[float, float]], ...] = (
        (limits.memory, words.MEMORY),
        (limits.body, words.BODY),
        (limits.log, words.LOG),
        (limits.cpu, words.CPU),
        (limits.timeout, words.TIMEOUT),
        (limits.spares, (0, words.MOST)),
        *((n, (1, words.MOST)) for n in (limits.tasks, limits.concurrency, limits.instances, limits.connections)),
    )
    must(all(least <= value <= most for value, (least, most) in ranges), "limits", limits)
    names = [grant.name for grant in manifest.grants]
    for what, all_of in (("hosts", manifest.hosts), ("offers.to", manifest.offers), ("grants", names)):
        must(len(set(all_of)) == len(all_of), f"{what}, one listed twice", ", ".join(all_of))
    return found


def _fixed(form: Callable[[str], str], value: str) -> bool:
    """Is `value` in the form that `form` brings it to?"""
    try:
        return form(value) == value
    except Wrong:
        return False
