"""What is done to an upload in a forked child: unpacked, its manifest and requirements read, its bundle written.

The child's answers are plain msgpack; `read_answer` on the daemon's side checks them, because the child has read
what a stranger sent.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Final

import msgspec

from fildes.kernel import memfd
from fildes.manifest import ManifestError, infer, read
from fildes.publish import requirements
from fildes.publish.bundle import LOCK, write_bundle
from fildes.publish.children import Report, Result
from fildes.publish.names import Rejected
from fildes.publish.tree import Content, Tree, decode, encode
from fildes.publish.unpack import unpack
from fildes.wire.catalogue import Manifest

MANIFEST: Final = "fildes.toml"
REQUIREMENTS: Final = "requirements.txt"
_MAX_FILE: Final = 4 << 20  # of the files read here


class Upload(msgspec.Struct, forbid_unknown_fields=True):
    """`lines`: requirements to resolve, `lock`: hashed lines that came along; neither: no dependencies."""

    manifest: Manifest
    files: int
    size: int
    lines: list[str] = []
    lock: str = ""


def take_in(archive: int, contents: int, name: str | None, report: Report) -> Result:
    """Unpack `archive` into the empty file `contents` (both borrowed) and read what it says about itself.

    → (an Upload, [sealed memfd of the tree's index]). Raises Rejected.
    """
    began = time.monotonic()
    with contextlib.suppress(OSError):  # a pipe has no beginning to go back to
        os.lseek(archive, 0, os.SEEK_SET)
    with open(os.dup(archive), "rb") as file, open(os.dup(contents), "wb") as out:
        tree = unpack(file, out)
    report("unpack", f"{len(tree.files)} files, {tree.size / 1e3:.0f} kB", began)
    began = time.monotonic()
    manifest = _manifest(tree, contents, name)
    lines: tuple[str, ...] = ()
    lock = ""
    if manifest.runtime != "static":
        lines, lock = _dependencies(tree, contents)
    grants = ", ".join(grant.name for grant in manifest.grants) or "none"
    report("manifest", f"{manifest.name}: {manifest.runtime}, grants: {grants}", began)
    upload = Upload(manifest, len(tree.files), tree.size, list(lines), lock)
    index = memfd.sealed("tree", encode(tree))
    return msgspec.to_builtins(upload), [index.take()]


def seal(index: int, contents: int, lock: bytes | None, target: int) -> Result:
    """Write the bundle of a tree into the file `target` (all borrowed) → its sha256."""
    tree = decode(memfd.read_sealed(index))
    with open(os.dup(target), "wb") as file:
        return write_bundle(tree, contents, lock, file), []


def _manifest(tree: Tree, contents: int, name: str | None) -> Manifest:
    try:
        content = _read(tree, contents, MANIFEST)
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


def _dependencies(tree: Tree, contents: int) -> tuple[tuple[str, ...], str]:
    """(lines to resolve, lock): at most one of them is not empty."""
    content = _read(tree, contents, REQUIREMENTS)
    wanted = requirements.read(content, REQUIREMENTS) if content is not None else None
    locked = _read(tree, contents, LOCK)
    if locked is not None:
        lock = requirements.read_lock(locked, LOCK)
        if lock.lines:
            return (), "\n".join(lock.lines) + "\n"
    if wanted is None:
        return (), ""
    if wanted.locked:
        return (), "\n".join(wanted.lines) + "\n"
    return wanted.lines, ""


def _read(tree: Tree, contents: int, name: str) -> bytes | None:
    if (name,) in tree.links:
        raise Rejected(f"{name}: is a symlink; put the file itself there")
    file = tree.files.get((name,))
    if file is None:
        return None
    if file.size > _MAX_FILE:
        raise Rejected(f"{name}: more than {_MAX_FILE} bytes")
    return Content(contents, file).read()


def read_answer(value: Any) -> Upload:
    """What the child answered. Raises msgspec.ValidationError."""
    return msgspec.convert(value, Upload)
