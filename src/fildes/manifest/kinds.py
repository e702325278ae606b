"""The kinds a grant may be of, and their options: declared by each kind itself, in capabilities/<kind>/grant.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

Options = Mapping[str, tuple[type, bool, str]]


class Kind(Protocol):
    """`options`: name → (type, required, what it means). "to" among them: the kind leads somewhere."""

    @property
    def options(self) -> Options: ...


@dataclass(frozen=True)
class _Plain:
    options: Options = field(default_factory=dict)


KINDS: Mapping[str, Kind] = {
    "clock": _Plain(),
    "random": _Plain(),
    "files": _Plain(),
    "secret": _Plain({"secret": (str, False, "the secret's name; the grant's own when left out")}),
    "connect": _Plain({"to": (str, True, 'a service, or "host:port"')}),
}
