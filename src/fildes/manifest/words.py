"""The small languages inside a manifest: sizes, names, hosts, addresses. Each takes a value, or raises Wrong."""

from __future__ import annotations

import encodings.idna  # noqa: F401 — the codec, now: a confined process could not load it at its first use
import ipaddress
import re
import shlex
from typing import Final

from fildes.capabilities.connect.grant import address_of
from fildes.capabilities.sizes import SIZE, UNITS
from fildes.manifest.problems import quote

SERVICE: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
OWNER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,63}")
SECRET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
GRANT: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
ENV: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
ENTRY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?", re.ASCII)
MEMORY: Final = (8 << 20, (1 << 60) - 1)  # bytes that [limits] may say
BODY: Final = (0, 1 << 40)  # bytes
LOG: Final = (64 << 10, 1 << 40)  # bytes
CPU: Final = (0.01, 1024.0)  # cores
TIMEOUT: Final = (1.0, 86400.0)  # seconds
MOST: Final = 1 << 20  # tasks, requests, instances, connections
MEANT: Final = {"cpu": ("cores", "0.5 is half of one core"), "timeout": ("seconds", "")}

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# RFC 3986 pchar without escapes: a prefix that could be written in two ways would be matched in one.
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
_LONGEST_PREFIX = 256
_PATH = re.compile(r"/[!-~]{0,255}")
_EXTRA = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)


class Wrong(ValueError):
    """`text` what is wrong and what was expected; `hint` what to write instead."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.text, self.hint = text, hint


def size(value: object) -> int:
    """Bytes of 67108864, "64MiB", "64 MB"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Wrong(f'expected a size such as "64MiB" or a number of bytes, got {quote(value)}')
    unit = found[2] or "B"
    if unit not in UNITS:
        near = {name.lower(): name for name in UNITS} | {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}
        meant = near.get(unit.lower()) or near.get(unit.lower()[:1], "MiB")
        raise Wrong(
            f"{quote(value)} has the unit {quote(unit)}; known are {', '.join(UNITS)}",
            f'did you mean "{found[1]}{meant}"?',
        )
    return int(found[1]) * UNITS[unit]


def written(size: int) -> str:
    """Bytes as a manifest would say them: "8 MiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]} {unit}"
    return f"{size} B"


def env(name: str) -> bool:
    """May a program's variable be called so? FILDES_ and LD_ are for those who start it."""
    return ENV.fullmatch(name) is not None and not name.startswith(("FILDES_", "LD_"))


def service(value: str) -> str:
    if not SERVICE.fullmatch(value):
        meant = re.sub(r"[^a-z0-9-]+", "-", value[:63].lower()).strip("-0123456789")
        raise Wrong(
            f"{quote(value)} is not a service's name: lower-case letters, digits and '-', at most 63, "
            "a letter first and no '-' last",
            f'did you mean "{meant}"?' if SERVICE.fullmatch(meant) and meant != value else "",
        )
    return value


def offered(value: str) -> str:
    """ "shop" or "owner/shop"."""
    owner, slash, name = value.rpartition("/")
    if slash and not OWNER.fullmatch(owner):
        raise Wrong(f'{quote(value)}: expected a service, or "owner/service"')
    return f"{owner}{slash}{service(name)}"


def host(value: str) -> str:
    """A host name in lower case and ASCII. Raises Wrong for ports, schemes, wildcards and what DNS would not carry."""
    if "://" in value:
        rest = value.partition("://")[2].rstrip("/")
        raise Wrong(f"{quote(value)} is a URL; expected a host name", f"write {quote(rest)}" if rest else "")
    if "*" in value:
        raise Wrong(f"{quote(value)}: a host must be written out, wildcards are not taken", "list each host")
    if ":" in value:
        bare = value.partition(":")[0]
        raise Wrong(
            f"{quote(value)} has a port; every host is served on all of the node's ports",
            f"write {quote(bare)}" if bare else "",
        )
    try:
        # The codec takes time that grows with the square of the length.
        name = value.encode("idna").decode("ascii").lower() if 0 < len(value) <= 253 else ""
    except UnicodeError as error:
        raise Wrong(f"{quote(value)} is not a host name: {error.__cause__ or error}") from error
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise Wrong(
            f"{quote(value)} is not a host name: labels of letters, digits and '-' with dots between them, "
            "at most 63 characters each and 253 together"
        )
    return name


def route(value: str) -> str:
    """ "host" or "host/prefix", the host as `host` gives it, no slash at the end."""
    if "://" in value:
        return host(value)
    name, _, prefix = value.partition("/")
    name = host(name)
    prefix = prefix.rstrip("/")
    if not prefix:
        return name
    for segment in prefix.split("/"):
        if segment in ("", ".", "..") or not _SEGMENT.fullmatch(segment):
            raise Wrong(
                f"{quote(value)}: the path behind the host must be made of plain segments "
                "(no empty ones, no '..', no '%', '?' or '#')"
            )
    if len(prefix) > _LONGEST_PREFIX:
        raise Wrong(f"{quote(value)}: the path behind the host is longer than {_LONGEST_PREFIX} characters")
    return f"{name}/{prefix}"


def command(value: str) -> str:
    """ "python manage.py migrate" or "python -m package.module": one command of a release, as `fildes run` takes it."""
    try:
        first, *rest = shlex.split(value) or [""]
    except ValueError as error:
        raise Wrong(f"{quote(value)} is not a command: {error}") from error
    if first != "python" or not rest:
        hint = f'write "python -m {first}"' if first and not rest else 'such as "python manage.py migrate"'
        raise Wrong(f"{quote(value)}: a command of a release begins with python and names a file or -m module", hint)
    if len(value) > 4096 or "\0" in value:
        raise Wrong(f"{quote(value[:64])}: a command may have 4096 characters, and no zero byte")
    return value


def health(value: str) -> str:
    """A path to ask for: "/healthz"."""
    if not _PATH.fullmatch(value):
        raise Wrong(f"{quote(value)}: expected a path that begins with '/', of at most 256 plain characters")
    return value


def extra(value: str) -> str:
    """The name of an extra (PEP 685), normalised."""
    if not _EXTRA.fullmatch(value):
        raise Wrong(f"{quote(value)} is not the name of an extra: letters, digits, '-', '_' and '.'")
    return re.sub(r"[-_.]+", "-", value).lower()


def target(value: str) -> str:
    """What a `connect` leads to: a service's name, or "host:port" ("[v6]:port")."""
    if ":" not in value:
        return service(value)
    name, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise Wrong(f'{quote(value)}: expected a service, or "host:port" with a port from 1 to 65535')
    if name.startswith("[") and name.endswith("]"):
        try:
            return f"[{ipaddress.IPv6Address(name[1:-1])}]:{int(port)}"
        except ValueError as error:
            raise Wrong(f"{quote(value)}: {error}") from error
    try:
        return f"{host(name)}:{int(port)}"
    except Wrong:
        if address_of(value) is None:
            raise
        return value.lower()  # names with "_", which resolvers take and no browser would
