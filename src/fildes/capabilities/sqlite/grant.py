"""`[grants.NAME] kind = "sqlite"`: a database that lasts, under an ordinary path.

The program opens the path with whatever it uses for SQLite; `sdk.open(NAME)` gives a connection. The files belong to
(owner, service, grant), not to a release: they are there for the next one, and are removed by `fildes rm --data` only.

Any number of instances may have it open, of two releases too while one drains: SQLite's own locks are the kernel's
record locks on the same files (fcntl(2)), and hold between them. One at a time writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fildes.capabilities import places, sizes
from fildes.capabilities.kind import Kind

QUOTA: Final = 1 << 30  # bytes, where the manifest says nothing
LEAST: Final = 1 << 20
MOST: Final = 1 << 44
# The files of a database, in the order of their descriptors; SQLite names them so (sqlite.org/tempfiles).
SUFFIXES: Final = ("", "-journal", "-wal", "-shm")


def path_of(name: str, options: Mapping[str, Any]) -> str:
    """Under which path the program finds the database that is granted as `name`."""
    path = options.get("path")
    return path if isinstance(path, str) else f"/data/{name}.sqlite3"


def quota_of(options: Mapping[str, Any]) -> int:
    """The most bytes of each of its files."""
    quota = options.get("quota")
    return (sizes.parse(quota) if isinstance(quota, str) else None) or QUOTA


def writable(options: Mapping[str, Any]) -> bool:
    return bool(options.get("mode", "ro" if "of" in options else "rw") == "rw")


def source_of(name: str, service: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """(service, grant) whose files they are: those of the asker, or what `of` says: "guestbook", "guestbook/db"."""
    of = options.get("of")
    if not isinstance(of, str):
        return service, name
    service, slash, grant = of.partition("/")
    return service, grant if slash else name


def _wrong(options: Mapping[str, Any]) -> list[str]:
    found = []
    path, quota, mode, of = (options.get(option) for option in ("path", "quota", "mode", "of"))
    if isinstance(path, str) and (text := places.problem(path)):
        found.append(f"the option 'path' {text}")
    if isinstance(quota, str) and not LEAST <= (sizes.parse(quota) or 0) <= MOST:
        found.append("the option 'quota' must be a size from 1MiB to 16TiB, such as \"512MiB\"")
    if isinstance(mode, str) and mode not in ("rw", "ro"):
        found.append('the option \'mode\' must be "rw" or "ro"')
    if isinstance(of, str):
        names = of.split("/")
        if len(names) > 2 or not all(name.replace("-", "").replace("_", "").isalnum() for name in names):
            found.append("the option 'of' must be a service, or SERVICE/GRANT where the grant there has another name")
        if mode == "rw":
            found.append("the option 'mode' can't be \"rw\" with 'of': the service itself writes its database")
        if quota is not None:
            found.append("the option 'quota' has no meaning with 'of': say it where the database is written")
    return found


KIND: Final = Kind(
    name="sqlite",
    driver="storage",
    summary="a database that lasts, under a path",
    revocation="the release's end: what it holds open stays open; the files stay until `fildes rm NAME --data`",
    options={
        "path": (str, False, 'where the program finds it; "/data/NAME.sqlite3" when left out'),
        "quota": (str, False, 'the most bytes of its file, such as "512MiB"; 1GiB when left out'),
        "mode": (str, False, '"rw", or "ro": this release reads only'),
        "of": (str, False, "another service of the same owner, whose database this one reads"),
    },
    at_start=True,
    check=_wrong,
)
