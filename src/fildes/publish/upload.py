"""What is done to an upload in a forked child: unpacked, its manifest and requirements read, its bundle written.

The child's answers are plain msgpack; `Upload.decode` on the daemon's side checks them, because the child has read
what a stranger sent.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import IO, Any, Final

import msgspec

from fildes.kernel import memfd
from fildes.manifest import ManifestError, infer, read
from fildes.publish import requirements
from fildes.publish.bundle import LOCK, write_bundle
from fildes.publish.children import Report, Result
from fildes.publish.names import Rejected
from fildes.publish.unpack import Parts, Tree, unpack
from fildes.wire.catalogue import Manifest

MANIFEST: Final = "fildes.toml"
REQUIREMENTS: Final = "requirements.txt"
_MAX_FILE: Final = 4 << 20  # of the files read here
_TREES: Final = msgspec.msgpack.Decoder(tuple[dict[str, tuple[int, int, int]], dict[str, str], list[str], int])


class Upload(msgspec.Struct, forbid_unknown_fields=True):
    """`lines`: requirements to resolve, `lock`: hashed lines that came along; neither: no dependencies."""

    manifest: Manifest
    files: int
    size: int
    lines: list[str] = []
    lock: str = ""


def take_in(archive: int, into: int, name: str | None, report: Report) -> Result:
    """Unpack `archive` into the directory `into` (both borrowed) and read what it says about itself.

    → (an Upload, [sealed memfd of the tree's index]). Raises Rejected.
    """
    began = time.monotonic()
    with contextlib.suppress(OSError):  # a pipe has no beginning to go back to
        os.lseek(archive, 0, os.SEEK_SET)
    with open(os.dup(archive), "rb") as file:
        tree = unpack(file, into)
    report("unpack", f"{len(tree.files)} files, {tree.size / 1e3:.0f} kB", began)
    began = time.monotonic()
    manifest = _manifest(tree, into, name)
    lines: tuple[str, ...] = ()
    lock = ""
    if manifest.runtime != "static":
        lines, lock = _dependencies(tree, into)
    grants = ", ".join(grant.name for grant in manifest.grants) or "none"
    report("manifest", f"{manifest.name}: {manifest.runtime}, grants: {grants}", began)
    upload = Upload(manifest, len(tree.files), tree.size, list(lines), lock)
    index = memfd.sealed("tree", _encode(tree))
    return msgspec.to_builtins(upload), [index.take()]


def seal(index: int, source: int, lock: bytes | None, target: int) -> Result:
    """Write the bundle of the tree in the directory `source` into the file `target` (all borrowed) → its sha256."""
    tree = _decode(memfd.read_sealed(index))

    def opener(parts: Parts) -> IO[bytes]:
        number = os.open("/".join(parts), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        return open(number, "rb")

    with open(os.dup(target), "wb") as file:
        return write_bundle(tree, opener, lock, file), []


def _manifest(tree: Tree, into: int, name: str | None) -> Manifest:
    try:
        content = _read(tree, into, MANIFEST)
        if content is not None:
            manifest = read(content, MANIFEST)
            if name is not None and name != manifest.name:
                raise Rejected(
                    f'{MANIFEST}:{manifest.lines.get("name", 1)}: the name is "{manifest.name}" there and '
                    f'"{name}" on the command line; leave --name out, or change one of them'
                )
            return manifest
        if name is None:
            raise Rejected(
                f"{MANIFEST} is missing: write one (name, runtime, entry, hosts), or name a folder of plain pages: "
                "fildes publish DIR --name NAME"
            )
        return infer((("/".join(parts)) for parts in tree.files), name)
    except ManifestError as error:
        raise Rejected(str(error)) from error


def _dependencies(tree: Tree, into: int) -> tuple[tuple[str, ...], str]:
    """(lines to resolve, lock): at most one of them is not empty."""
    content = _read(tree, into, REQUIREMENTS)
    wanted = requirements.read(content, REQUIREMENTS) if content is not None else None
    locked = _read(tree, into, LOCK)
    if locked is not None:
        lock = requirements.read_lock(locked, LOCK)
        if lock.lines:
            return (), "\n".join(lock.lines) + "\n"
    if wanted is None:
        return (), ""
    if wanted.locked:
        return (), "\n".join(wanted.lines) + "\n"
    return wanted.lines, ""


def _read(tree: Tree, into: int, name: str) -> bytes | None:
    if (name,) in tree.links:
        raise Rejected(f"{name}: is a symlink; put the file itself there")
    if (name,) not in tree.files:
        return None
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=into), "rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise Rejected(f"{name}: more than {_MAX_FILE} bytes")
    return content


def _encode(tree: Tree) -> bytes:
    def name(parts: Parts) -> str:
        return "/".join(parts)

    files = {name(parts): entry for parts, entry in tree.files.items()}
    links = {name(parts): target for parts, target in tree.links.items()}
    return msgspec.msgpack.encode((files, links, [name(parts) for parts in tree.directories if parts], tree.size))


def _decode(data: bytes) -> Tree:
    files, links, directories, size = _TREES.decode(data)

    def parts(name: str) -> Parts:
        return tuple(name.split("/"))

    return Tree(
        {parts(name): entry for name, entry in files.items()},
        {parts(name): target for name, target in links.items()},
        {(), *(parts(name) for name in directories)},
        size,
    )


def decode(value: Any) -> Upload:
    """What the child answered. Raises msgspec.ValidationError."""
    return msgspec.convert(value, Upload)
