"""Which files a release's processes see while they load: data, no I/O.

The view is a tmpfs of its own with read-only binds in it. It is detached when the ratchet turns; from then on the
program lives on descriptors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

PACKAGE = "/fildes/lib/fildes"
SITE = "/fildes/site"
SITE_PACKAGES = ("uvloop", "wsproto", "h11")  # what the runtime uses where it finds it


@dataclass(frozen=True)
class Directory:
    path: str


@dataclass(frozen=True)
class Link:
    path: str
    target: str


@dataclass(frozen=True)
class File:
    path: str
    content: str


@dataclass(frozen=True)
class Bind:
    """A read-only, nosuid bind of `source`; devices work only on the one that says so."""

    path: str
    source: str
    devices: bool = False


@dataclass(frozen=True)
class Filesystem:
    path: str
    type: str
    options: tuple[tuple[str, str], ...] = ()
    read_only: bool = False


Entry = Directory | Link | File | Bind | Filesystem


def interpreter() -> str:
    """The interpreter of every release: the one that this node runs on, outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def layout(tree: str) -> list[Entry]:
    """The view of a release whose files lie in the directory `tree`, in the order in which it is to be made."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    entries: list[Entry] = [
        *_system(),
        *_interpreter(),
        Bind(PACKAGE, package),
        *_site(),
        Bind("/app", os.path.join(tree, "app")),
        Bind("/dev/null", "/dev/null", devices=True),
        Filesystem("/proc", "proc", read_only=True),
        Filesystem("/tmp", "tmpfs", (("mode", "1777"), ("size", "16m"))),
        File("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        File("/etc/passwd", "fildes:x:0:0::/tmp:/nonexistent\n"),
        File("/etc/nsswitch.conf", "hosts: files\npasswd: files\n"),
    ]
    if os.path.isdir(os.path.join(tree, "deps")):
        entries.append(Bind("/deps", os.path.join(tree, "deps")))
    return entries


def _system() -> Iterator[Entry]:
    yield Bind("/usr/lib", "/usr/lib")
    for name in ("/lib", "/lib64", "/usr/lib64"):
        if os.path.islink(name):
            yield Link(name, os.readlink(name))
        elif os.path.isdir(name):
            yield Bind(name, name)
    for name in (
        "/etc/ld.so.cache",
        "/etc/mime.types",
        "/etc/ssl/certs",
        "/usr/share/zoneinfo",
        "/usr/share/ca-certificates",
    ):
        if os.path.exists(name):
            yield Bind(name, name)


def _interpreter() -> Iterator[Entry]:
    executable = interpreter()
    if sys.base_prefix == "/usr":  # its library is under /usr/lib
        yield Bind(executable, executable)
    else:
        yield Bind(sys.base_prefix, os.path.realpath(sys.base_prefix))
        if not executable.startswith(os.path.join(sys.base_prefix, "")):
            yield Bind(executable, executable)


def _site() -> Iterator[Entry]:
    import importlib.util

    for name in SITE_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield Bind(f"{SITE}/{name}", next(iter(spec.submodule_search_locations)))
