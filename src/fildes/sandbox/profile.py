"""Profiles: which system calls a process may make, with which arguments, and why.

A profile is a TOML file. `default` is the errno of a call that has no line, `beyond` that of a call newer than
our tables (ENOSYS, so that the C library takes the older way). `extends` names a profile, or a list of them, whose
lines come first and are replaced by lines of the same call. Then one line a call, `name = ["rule", "reason"]`:

    rule      = clause { "; " clause }         the first clause that matches decides; none: the default
    clause    = action [ " if " condition { " and " condition } ]
    action    = allow | notify | trap | kill | an errno's name
    condition = [ "wide " ] aN [ " & " value ] operator value { " " value }     several values only after "in"
    operator  = == != < <= > >= in
    value     = number, C name of words.py, ~ before either, "|" between several

aN is argument N, of which the low 32 bits are compared (an int or flags), or all 64 with "wide" (pointers).
Lines for calls that only another machine has are skipped; a name that no machine has is an error.
"""

from __future__ import annotations

import errno
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fildes.kernel import seccomp
from fildes.kernel.abi import NUMBERS
from fildes.kernel.libc import MACHINE
from fildes.sandbox.words import WORDS

PROFILES: Final = Path(__file__).parent / "profiles"

_KEYS: Final = {"about", "default", "beyond", "extends", "calls"}
_ACTIONS: Final = {
    "allow": seccomp.RET_ALLOW,
    "notify": seccomp.RET_USER_NOTIF,
    "trap": seccomp.RET_TRAP,
    "kill": seccomp.RET_KILL_PROCESS,
}
_CONDITION: Final = re.compile(r"(wide )?a([0-5])(?: & (\S+))? (==|!=|<=|>=|<|>|in) (\S.*)")


class ProfileError(ValueError):
    """A profile's file says something that has no meaning; the text names file and line."""


@dataclass(frozen=True)
class Call:
    """One line: `clauses` decide about the call `name`, because of `reason`."""

    name: str
    rule: str
    reason: str
    clauses: tuple[seccomp.Clause, ...]


@dataclass(frozen=True)
class Profile:
    """A profile as its file states it; `calls` by name, for all machines."""

    name: str
    about: str
    default: int
    beyond: int
    calls: dict[str, Call]

    def decide(self, call: str, arguments: Sequence[int]) -> int:
        """What the compiled filter answers: an action of `kernel.seccomp`. For tests and explanations."""
        padded = (*arguments, *[0] * (6 - len(arguments)))
        for clause in self.calls[call].clauses if call in self.calls else ():
            if all(condition.holds(padded) for condition in clause.conditions):
                return clause.action
        return self.default


def names() -> list[str]:
    """The profiles that there are."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load(name: str) -> Profile:
    """The profile of that name. Raises ProfileError or FileNotFoundError."""
    return parse((PROFILES / f"{name}.toml").read_text(encoding="utf-8"), name)


def parse(text: str, name: str) -> Profile:
    """The profile that `text` states; `name` is for it and for errors. Raises ProfileError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{name}.toml: {error}") from error
    if unknown := data.keys() - _KEYS:
        raise ProfileError(f"{name}.toml: unknown key {sorted(unknown)[0]!r}; known are {', '.join(sorted(_KEYS))}")
    extended = data.get("extends", [])
    bases = [load(base) for base in ([extended] if isinstance(extended, str) else extended)]
    if not bases and not {"default", "beyond"} <= data.keys():
        raise ProfileError(f"{name}.toml: say `default` and `beyond`, or which profile it `extends`")
    calls: dict[str, Call] = {}
    for base in bases:
        calls |= base.calls
    for call, line in data.get("calls", {}).items():
        calls[call] = _call(f"{name}.toml, {call}", call, line)
    default, beyond = (
        _errno(f"{name}.toml, {key}", data[key]) if key in data else inherited
        for key, inherited in (
            ("default", bases[0].default if bases else 0),
            ("beyond", bases[0].beyond if bases else 0),
        )
    )
    return Profile(name, str(data.get("about", "")), default, beyond, calls)


def bounded(stated: Profile, size: int) -> Profile:
    """As `stated`, but pwrite64 near and beyond `size` bytes says that there is no room.

    RLIMIT_FSIZE bounds a file, and says EFBIG, which SQLite takes for a broken disk. So what would begin in the last
    64 KiB, the largest page that it has, gets ENOSPC from here.
    """
    call = stated.calls["pwrite64"]
    late = seccomp.Condition(3, ">", (max(0, size - 65536),), wide=True)
    clauses = (seccomp.Clause(seccomp.return_errno(errno.ENOSPC), (late,)), *call.clauses)
    return replace(stated, calls={**stated.calls, "pwrite64": replace(call, clauses=clauses)})


def compile(profile: Profile, *, machine: str = MACHINE) -> bytes:
    """The profile's filter for `machine`, ready for `kernel.seccomp.install`."""
    numbers = NUMBERS[machine]
    # A rule for every known number, so that `beyond` begins after the last of them.
    rules: dict[int, tuple[seccomp.Clause, ...]] = {number: () for number in numbers.values()}
    rules |= {numbers[c.name]: c.clauses for c in profile.calls.values() if c.name in numbers}
    return seccomp.assemble(rules, profile.default, beyond=profile.beyond, machine=machine)


def _call(where: str, name: str, line: Any) -> Call:
    if not any(name in table for table in NUMBERS.values()):
        raise ProfileError(f"{where}: no machine has a call of that name")
    if not (isinstance(line, list) and len(line) == 2 and all(isinstance(part, str) and part for part in line)):
        raise ProfileError(f'{where}: expected ["rule", "reason"]')
    rule, reason = line
    return Call(name, rule, reason, tuple(_clause(where, text.strip()) for text in rule.split(";")))


def _clause(where: str, text: str) -> seccomp.Clause:
    action, _, conditions = text.partition(" if ")
    parts = conditions.split(" and ") if conditions else []
    return seccomp.Clause(_action(where, action), tuple(_condition(where, part.strip()) for part in parts))


def _action(where: str, word: str) -> int:
    return _ACTIONS[word] if word in _ACTIONS else _errno(where, word)


def _errno(where: str, word: str) -> int:
    number = getattr(errno, word, None) if re.fullmatch("E[A-Z0-9]+", word) else None
    if not isinstance(number, int):
        raise ProfileError(f"{where}: {word!r} is neither {', '.join(_ACTIONS)} nor the name of an errno")
    return seccomp.return_errno(number)


def _condition(where: str, text: str) -> seccomp.Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ProfileError(f"{where}: {text!r} is no condition, such as: a1 & PROT_EXEC == 0")
    wide, index, mask, operator, operands = match.groups()
    values = tuple(_value(where, word) for word in operands.split())
    if (len(values) != 1 and operator != "in") or (wide and operator == "in"):
        raise ProfileError(f"{where}: {text!r}: several values take `in`, and `wide` takes one value")
    bits = _value(where, mask) if mask else -1
    return seccomp.Condition(int(index), operator, values, bits & 0xFFFFFFFFFFFFFFFF, bool(wide))


def _value(where: str, text: str) -> int:
    value = 0
    for term in text.split("|"):
        word = term.removeprefix("~")
        if word not in WORDS and not re.fullmatch(r"-?\d+|0x[0-9a-f]+", word):
            raise ProfileError(f"{where}: {word!r} is neither a number nor a name that words.py has")
        number = WORDS[word] if word in WORDS else int(word, 0)
        value |= ~number if term.startswith("~") else number
    return value
