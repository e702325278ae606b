"""`[grants.files]`: the release's own tree stays reachable by the kernel, read-only, after the program was loaded.

Wider than the pack, from which files are served otherwise: open, stat and readlink reach the kernel, bounded by the
view alone. Needed by C libraries that load others late, and by what the trap does not answer.
"""

from __future__ import annotations

from typing import Final

from fildes.capabilities.kind import Kind

KIND: Final = Kind(
    name="files",
    driver="",
    summary="the release's own files, read-only, by path",
    revocation="the release's cgroup ends: its view is a mount namespace, and goes with it",
)
