"""What is done to an upload in a forked child: unpacked, its manifest and its needs read, its bundle written.

The child's answers are plain msgpack; `read_answer` on the daemon's side checks them, because the child has read
what a stranger sent.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from fildes.kernel import memfd
from fildes.manifest import ManifestError, infer, read
from fildes.pages import headers, redirects
from fildes.pages.headers import Headers
from fildes.pages.lines import PagesError
from fildes.pages.redirects import Redirects
from fildes.publish import dependencies, lockfile, requirements
from fildes.publish.bundle import write_bundle
from fildes.publish.children import Report, Result
from fildes.publish.dependencies import Dependencies
from fildes.publish.names import Rejected
from fildes.publish.tree import Content, Tree, decode, encode
from fildes.publish.unpack import unpack
from fildes.wire.catalogue import Manifest

MANIFEST: Final = "fildes.toml"
MAX_NEEDS: Final = 16 << 20  # bytes of `Needs`, packed
_MAX_FILE: Final = 4 << 20  # of the files read here


class Upload(msgspec.Struct, forbid_unknown_fields=True):
    """`roots` and `metadata`: where the project's own packages lie, and what is to be found about it
    (publish/project.py)."""

    manifest: Manifest
    files: int
    size: int
    roots: list[str] = []
    metadata: dict[str, str] = {}


class Needs(msgspec.Struct, forbid_unknown_fields=True):
    """`lines`: requirements to resolve, of the file `source`; `lock`: hashed lines that came along; neither: no
    dependencies. `before`: a lock whose versions are to stay where they can."""

    lines: tuple[str, ...] = ()
    lock: str = ""
    source: str = ""
    before: tuple[str, ...] = ()


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    """A lock out of a stored bundle: its bytes and its lines."""

    lock: bytes
    lines: tuple[str, ...]


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What who publishes said beside the folder (wire/publish.py). `manifest`: instead of the folder's own."""

    name: str | None = None
    upgrade: bool = False
    lock: bool = False
    manifest: Manifest | None = None
    folder: str = ""


def take_in(archive: int, contents: int, wish: Wish, report: Report) -> Result:
    """Unpack `archive` into the empty file `contents` (both borrowed) and read what it says about itself.

    → (an Upload, [sealed memfd of the tree's index, sealed memfd of its Needs]). Raises Rejected.
    """
    began = time.monotonic()
    with contextlib.suppress(OSError):  # a pipe has no beginning to go back to
        os.lseek(archive, 0, os.SEEK_SET)
    with open(os.dup(archive), "rb") as file, open(os.dup(contents), "wb") as out:
        tree = unpack(file, out)
    report("unpack", f"{len(tree.files)} files, {tree.size / 1e3:.0f} kB", began)
    began = time.monotonic()

    def of_upload(name: str) -> bytes | None:
        return _read(tree, contents, name)

    manifest = wish.manifest or _manifest(tree, of_upload, wish)
    found = Dependencies()
    if manifest.runtime != "static":
        folders = {"/".join(parts) for parts in tree.directories}
        found = dependencies.find(of_upload, manifest.extras, folders, again=wish.lock, upgrade=wish.upgrade)
    else:
        _check_pages(of_upload)
    grants = ", ".join(grant.name for grant in manifest.grants) or "none"
    report("manifest", f"{manifest.name}: {manifest.runtime}, grants: {grants}", began)
    for word in found.words:
        report("note", word, began)
    upload = Upload(manifest, len(tree.files), tree.size, list(found.own.roots), dict(found.own.metadata))
    lock = "".join(f"{' '.join(line.split())}\n" for line in found.lock)
    needs = memfd.sealed("needs", msgspec.msgpack.encode(Needs(found.lines, lock, found.source, found.before)))
    index = memfd.sealed("tree", encode(tree))
    return msgspec.to_builtins(upload), [index.take(), needs.take()]


def _check_pages(of_upload: Callable[[str], bytes | None]) -> None:
    """What a static site says of itself has to be something that `static` can obey. Raises Rejected."""
    try:
        Headers(of_upload(headers.FILE) or b"")
        Redirects(of_upload(redirects.FILE) or b"")
    except PagesError as error:
        raise Rejected(str(error)) from error


def seal(index: int, contents: int, lock: bytes | None, target: int) -> Result:
    """Write the bundle of a tree into the file `target` (all borrowed) → its sha256."""
    tree = decode(memfd.read_sealed(index))
    with open(os.dup(target), "wb") as file:
        return write_bundle(tree, contents, lock, file), []


def lock_of(bundle: int, contents: int) -> Result:
    """The lock in a stored bundle → (None, [sealed memfd of a Kept]). Raises Rejected if there is none.

    `contents` is an empty file; both are borrowed.
    """
    with open(os.dup(bundle), "rb") as file, open(os.dup(contents), "wb") as out:
        os.lseek(bundle, 0, os.SEEK_SET)
        tree = unpack(file, out)
    lock = _read(tree, contents, lockfile.LOCK)
    if lock is None:
        raise Rejected(f"there is no {lockfile.LOCK} in it")
    kept = Kept(lock, requirements.read_lock(lock, lockfile.LOCK).lines)
    return None, [memfd.sealed("kept", msgspec.msgpack.encode(kept)).take()]


def _manifest(tree: Tree, of_upload: Callable[[str], bytes | None], wish: Wish) -> Manifest:
    try:
        content = of_upload(MANIFEST)
        if content is not None:
            manifest = read(content, MANIFEST)
            if wish.name is not None and wish.name != manifest.name:
                raise Rejected(
                    f'{MANIFEST}:{manifest.lines.get("name", 1)}: the name is "{manifest.name}" there and '
                    f'"{wish.name}" on the command line; leave --name out, or change one of them'
                )
            return manifest

        def look(name: str) -> bytes | None:  # what can't be read tells nothing
            with contextlib.suppress(Rejected):
                return of_upload(name)
            return None

        return infer((("/".join(parts)) for parts in tree.files), wish.name, look, wish.folder)
    except ManifestError as error:
        raise Rejected(str(error)) from error


def _read(tree: Tree, contents: int, name: str) -> bytes | None:
    parts = tuple(name.split("/"))
    if parts in tree.links:
        raise Rejected(f"{name}: is a symlink; put the file itself there")
    file = tree.files.get(parts)
    if file is None:
        return None
    if file.size > _MAX_FILE:
        raise Rejected(f"{name}: more than {_MAX_FILE} bytes")
    return Content(contents, file).read()


def read_answer(value: Any) -> Upload:
    """What the child answered. Raises msgspec.ValidationError."""
    return msgspec.convert(value, Upload)


def read_needs(fd: int) -> Needs:
    """What the child found out, from its sealed memfd (borrowed). Raises msgspec.MsgspecError, ValueError."""
    return msgspec.msgpack.decode(memfd.read_sealed(fd, MAX_NEEDS), type=Needs)


def read_kept(fd: int) -> Kept:
    """As `read_needs`, of `lock_of`."""
    return msgspec.msgpack.decode(memfd.read_sealed(fd, MAX_NEEDS), type=Kept)
