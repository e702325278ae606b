"""Taking in the two files of a release: the bundle, and the pack made of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from fildes.catalogue import policy
from fildes.catalogue.lookup import Lookup
from fildes.catalogue.objects import NotTaken, Objects
from fildes.daemon.peer import Refused
from fildes.kernel.fds import Fd
from fildes.manifest.problems import show_all
from fildes.pack.format import PackError
from fildes.pack.reader import Pack
from fildes.wire.catalogue import Publish

Pin = Callable[[str], None]


class Files(NamedTuple):
    """What is stored now, and pinned: hashes, and sizes in bytes."""

    bundle: str
    bundle_size: int
    pack: str
    pack_size: int


def known(db: Lookup, objects: Objects, owner: str, bundle: str, abi: str) -> str | None:
    """The pack of an earlier release of this owner with the same bundle, if both files are really there."""
    pack = db.packed(owner, bundle, abi)
    return pack if pack is not None and objects.has(bundle) and objects.has(pack) else None


async def receive(db: Lookup, objects: Objects, body: Publish, fds: list[Fd], pin: Pin) -> Files:
    """Store [bundle, pack] (borrowed), or find what is stored if there are no fds.

    Raises Refused, NoSpace, BadState.
    """
    if not fds:
        pack = known(db, objects, body.owner, body.bundle, body.abi)
        if pack is None:
            raise Refused("not-stored", "the files of this bundle are not stored here: send them")
        pin(body.bundle)
        pin(pack)
        files = Files(body.bundle, db.size(body.bundle), pack, db.size(pack))
        _check_sizes(db, body, files.bundle_size, files.pack_size)
        return files
    if len(fds) != 2:
        raise Refused("bundle", f"expected a bundle and a pack beside the message, got {len(fds)} descriptors")
    bundle_fd, pack_fd = (fd.fileno() for fd in fds)
    sizes = [os.fstat(fd).st_size for fd in (bundle_fd, pack_fd)]
    _check_sizes(db, body, *sizes)
    try:
        # Stored before under the announced hash: then reading it is enough.
        take = objects.hash if objects.has(body.bundle) else objects.store
        bundle, bundle_size = await take(bundle_fd, sizes[0])
        pin(bundle)
        if bundle != body.bundle:
            raise Refused("bundle", f"the bundle's sha256 is {bundle}, and {body.bundle} was announced: publish again")
        pack, pack_size = await objects.store(pack_fd, sizes[1])
        pin(pack)
    except NotTaken as error:
        raise Refused("bundle", f"the release's files cannot be taken: {error}") from error
    if body.manifest.runtime == "static":
        _must_open(objects, pack)
    return Files(bundle, bundle_size, pack, pack_size)


def _check_sizes(db: Lookup, body: Publish, bundle: int, pack: int) -> None:
    stored = db.stored(body.owner, besides=body.manifest.name)
    found = policy.check_sizes(body.manifest, db.policy(body.owner), stored, policy.Sizes(bundle, pack))
    if found:
        raise Refused("quota", show_all(body.manifest.filename, found))


def _must_open(objects: Objects, pack: str) -> None:
    # A program's pack is tried by starting it; a site's by nobody before its first request.
    with objects.open(pack) as fd:
        try:
            Pack(fd.fileno()).close()
        except PackError as error:
            raise Refused("bundle", f"the pack cannot be used: {error}") from error
