"""What there is to know about a kind, as data. The manifest, the bus and `fildes explain` read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Options = Mapping[str, tuple[type, bool, str]]


@dataclass(frozen=True)
class Kind:
    """A kind of capability.

    driver      the daemon that answers "<driver>.open"; "bus": the bus introduces; "": nothing is opened
    revocation  what has to happen for a holder to lose it: a passed descriptor can't be recalled
    options     name → (type, required, what it means); "to" among them: it leads somewhere
    at_start    an instance is given it before its first request; the program need not ask
    internal    every instance has it, and no manifest names it
    check       what is wrong with the values of options whose types are right, a sentence each
    """

    name: str
    driver: str
    summary: str
    revocation: str
    options: Options = field(default_factory=dict)
    at_start: bool = False
    internal: bool = False
    check: Callable[[Mapping[str, Any]], list[str]] = lambda _: []


def problems(kind: Kind, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a grant's `options` ("to" among them), a sentence each, as far as can be told here."""
    found = [f"the kind {kind.name} has no option {name!r}" for name in options if name not in kind.options]
    for name, (expected, required, meaning) in kind.options.items():
        if name not in options:
            if required:
                found.append(f"the kind {kind.name} needs {name!r}: {meaning}")
        elif type(options[name]) is not expected:
            found.append(f"the option {name!r} must be of the type {expected.__name__}: {meaning}")
    return found or kind.check(options)


def grant_lines(name: str, kind: str, to: str | None = None) -> str:
    """The lines of fildes.toml that declare this grant."""
    lines = [f"[grants.{name}]"]
    if kind != name:
        lines.append(f'kind = "{kind}"')
    if to is not None:
        lines.append(f'to = "{to}"')
    return "\n".join(lines)
