"""`[grants.files]`: the release's own tree stays reachable by the kernel, read-only, after the program was loaded.

Wider than the pack, from which files are served otherwise: open, stat and readlink reach the kernel, bounded by the
view alone. Needed by C libraries that load others late, and by what the trap does not answer.

With `path` there is also a tree that can be written, and lasts: its files belong to (owner, service, grant), and are
removed by `fildes rm --data` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fildes.capabilities import places, sizes
from fildes.capabilities.kind import Kind

LEAST: Final = 16 << 20  # bytes: a file system of its own takes some
MOST: Final = 1 << 44
QUOTA: Final = 100 << 20  # where the manifest says nothing


def path_of(options: Mapping[str, Any]) -> str | None:
    """Where the tree is that lasts and can be written; None: the grant has none."""
    path = options.get("path")
    return path if isinstance(path, str) else None


def quota_of(options: Mapping[str, Any]) -> int:
    """Bytes that the tree may hold."""
    quota = options.get("quota")
    return (sizes.parse(quota) if isinstance(quota, str) else None) or QUOTA


def _wrong(options: Mapping[str, Any]) -> list[str]:
    found = []
    path, quota = options.get("path"), options.get("quota")
    if isinstance(path, str) and (text := places.problem(path)):
        found.append(f"the option 'path' {text}")
    if isinstance(path, str) and f"{path}/".startswith("/app/"):
        found.append("the option 'path' may not lie in /app, which is read-only; /data/NAME is a good one")
    if quota is not None and path is None:
        found.append("the option 'quota' is of a tree that lasts, and goes with 'path'")
    if isinstance(quota, str) and not LEAST <= (sizes.parse(quota) or 0) <= MOST:
        found.append("the option 'quota' must be a size from 16MiB to 16TiB, such as \"100MiB\"")
    return found


KIND: Final = Kind(
    name="files",
    driver="",
    summary="the release's own files, read-only, by path; with `path` a tree that lasts",
    revocation="the release's cgroup ends: its view is a mount namespace, and goes with it; a tree that lasts stays",
    options={
        "path": (str, False, 'where a tree that lasts and can be written is, such as "/data/uploads"'),
        "quota": (str, False, 'the most that it may hold, such as "1GiB"; 100MiB when left out'),
    },
    check=_wrong,
)
