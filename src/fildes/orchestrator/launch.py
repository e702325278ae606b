"""How a release's zygote is confined: the plan that sandbox/ takes the steps of. Data, no I/O.

The view has no /proc: a file of it that a program opened while it loads would go on telling the time of the machine
after the ratchet.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from fildes.capabilities.files import grant as files
from fildes.capabilities.sqlite import grant as sqlite
from fildes.kernel.fds import Fd
from fildes.pack.base import PACKAGE, SITE, SITE_PACKAGES  # the view and the base pack have the same paths
from fildes.sandbox.plan import Plan
from fildes.sandbox.steps import CONTROL
from fildes.sandbox.view import Bind, Copy, Directory, Entry, File, Filesystem, Link
from fildes.wire.catalogue import Grant, Release

_SHARED: Final = (
    "/etc/ld.so.cache",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
)
BASE: Final = {"PATH": "/usr/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}  # what programs look for
_ENVIRONMENT: Final = (
    *BASE.items(),
    ("LD_BIND_NOW", "1"),  # functions of libraries are looked up once, not in every instance that calls them first
)


VARIANTS: Final = ("", "-files", "-sqlite", "-scratch")  # of the profiles


def keeps_files(release: Release) -> bool:
    """Whether the release's view stays after the ratchet: the `files` grant."""
    return any(grant.kind == "files" for grant in release.grants)


def trees(release: Release) -> list[Grant]:
    """Its grants of trees that last."""
    return [grant for grant in release.grants if grant.kind == "files" and files.path_of(grant.options) is not None]


def load_profile(release: Release) -> str:
    return f"load{_variant(release)}"


def serve_profile(release: Release) -> str:
    return f"serve{_variant(release)}"


def _variant(release: Release) -> str:
    if trees(release):
        return "-scratch"
    if keeps_files(release):
        return "-files"
    return "-sqlite" if any(grant.kind == "sqlite" for grant in release.grants) else ""


def largest_file(release: Release, packs: int = 0) -> int | None:
    """The most bytes that any file of the release's processes may have (RLIMIT_FSIZE, setrlimit(2)): the quota of its
    largest database, but not less than its packs, whose members are files of theirs too. None: nothing is kept.
    """
    quotas = [sqlite.quota_of(grant.options) for grant in release.grants if grant.kind == "sqlite"]
    return max(packs, *quotas) if quotas else None


def command_profile(release: Release) -> str:
    return f"command{_variant(release)}"


def plan(
    release: Release,
    *,
    tree: str,
    mountpoint: str,
    root: bool,
    limits: str,
    packs: int = 0,
    kept: Sequence[Entry] = (),
) -> Plan:
    """`tree`: the directory with the release's files. `limits`: the cgroup's in words, "" where there is none. `packs`:
    bytes of the largest of its packs. `kept`: its trees that last.
    """
    python = interpreter()
    return Plan(
        view=(*_view(tree), *_places(release), *kept),
        mountpoint=mountpoint,
        profile=load_profile(release),
        arguments=(python, "-I", "-S", "-B", f"{PACKAGE}/zygote/__main__.py", str(CONTROL)),
        environment=_ENVIRONMENT,
        cwd="/app",
        uid=release.uid if root else None,
        limits=limits,
        file_size=largest_file(release, packs),
    )


def interpreter() -> str:
    """The interpreter of every release: the one that this node runs on, outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _view(tree: str) -> Iterator[Entry]:
    yield from _system()
    yield from _interpreter()
    yield Bind(PACKAGE, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    yield from _site()
    yield Bind("/app", os.path.join(tree, "app"))
    if os.path.isdir(os.path.join(tree, "deps")):
        yield Bind("/deps", os.path.join(tree, "deps"))
    yield Bind("/dev/null", "/dev/null", devices=True)
    yield Filesystem("/tmp", "tmpfs", (("mode", "1777"), ("size", "16m"), ("nr_inodes", "4k")))
    yield File("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    yield File("/etc/passwd", "fildes:x:0:0::/tmp:/nonexistent\n")
    yield File("/etc/nsswitch.conf", "hosts: files\npasswd: files\n")


def secret_places(opened: Sequence[tuple[str, Fd]]) -> list[Entry]:
    """Where a program finds its secrets while it loads, as later; a mount of their own, which the ratchet detaches."""
    if not opened:
        return []
    size = sum(os.fstat(fd.fileno()).st_size + 8192 for _, fd in opened)
    folder = Filesystem("/run/secrets", "tmpfs", (("mode", "0755"), ("size", str(size))))
    return [folder, *(Copy(f"/run/secrets/{name}", fd.fileno()) for name, fd in opened)]


def _places(release: Release) -> Iterator[Entry]:
    """Where databases will be: programs look for the directory while they load. It is empty until they serve."""
    paths = [sqlite.path_of(grant.name, grant.options) for grant in release.grants if grant.kind == "sqlite"]
    folders = {os.path.dirname(path) for path in paths}
    yield from (
        Directory(folder) for folder in sorted(folders) if folder != "/" and not f"{folder}/".startswith("/app/")
    )


def _system() -> Iterator[Entry]:
    yield Bind("/usr/lib", "/usr/lib")
    for name in ("/lib", "/lib64", "/usr/lib64"):
        if os.path.islink(name):
            yield Link(name, os.readlink(name))
        elif os.path.isdir(name):
            yield Bind(name, name)
    yield from (Bind(name, name) for name in _SHARED if os.path.exists(name))


def _interpreter() -> Iterator[Entry]:
    executable = interpreter()
    if sys.base_prefix == "/usr":  # its library is under /usr/lib
        yield Bind(executable, executable)
        return
    yield Bind(sys.base_prefix, os.path.realpath(sys.base_prefix))
    if not executable.startswith(os.path.join(sys.base_prefix, "")):
        yield Bind(executable, executable)


def _site() -> Iterator[Entry]:
    for name in SITE_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield Bind(f"{SITE}/{name}", next(iter(spec.submodule_search_locations)))
