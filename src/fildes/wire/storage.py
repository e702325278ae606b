"""What the storage driver answers. The files of a grant belong to (owner, service, grant), whatever the release.

storage.open     drivers.Open → Opened + its descriptors       for the bus and the orchestrator
storage.list     List → Listed
storage.kept     AskKept → KeptCount + [sealed memfd: msgpack list of Kept, by owner and service]
storage.backup   Backup + [file, writable] → Copied            a consistent copy, while others write
storage.restore  Restore + [file, readable] → Copied           checked first; the database is then that, or as before
storage.remove   Remove → Removed                              for good
storage.tree     Tree → Placed + [its directory, and the image or the folder in it]     for the orchestrator
"""

from __future__ import annotations

import msgspec


class Tree(msgspec.Struct, forbid_unknown_fields=True):
    """`quota` in bytes, of one that is made now. `image`: a file system in a file can be mounted on this machine."""

    owner: str
    service: str
    grant: str
    quota: int
    image: bool


class Placed(msgspec.Struct, forbid_unknown_fields=True):
    """What it is: one that was made as a plain folder stays one. `quota` as it was made; 0 where nobody keeps it."""

    image: bool
    quota: int


class List(msgspec.Struct, forbid_unknown_fields=True):
    owner: str
    service: str


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """`size` in bytes, of everything on the disk; `kind` as a manifest says it."""

    grant: str
    kind: str
    size: int


class Listed(msgspec.Struct, forbid_unknown_fields=True):
    items: list[Item]


class AskKept(msgspec.Struct, forbid_unknown_fields=True):
    """None: everybody's; all services'."""

    owner: str | None = None
    service: str | None = None


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What a service keeps, or kept when it was removed: `size` in bytes, of everything on the disk."""

    owner: str
    service: str
    grants: list[str]
    size: int
    sizes: list[int] = []  # of each of them


class KeptCount(msgspec.Struct, forbid_unknown_fields=True):
    count: int


class Backup(msgspec.Struct, forbid_unknown_fields=True):
    owner: str
    service: str
    grant: str


class Restore(msgspec.Struct, forbid_unknown_fields=True):
    """`most`: bytes that the database may have; 0: as many as there are."""

    owner: str
    service: str
    grant: str
    most: int = 0


class Copied(msgspec.Struct, forbid_unknown_fields=True):
    """`size` in bytes."""

    size: int


class Remove(msgspec.Struct, forbid_unknown_fields=True):
    owner: str
    service: str


class Removed(msgspec.Struct, forbid_unknown_fields=True):
    grants: int
