"""The pack's layout, version 1, little-endian. `shim/trap.c` reads the same bytes: change both or neither.

    header   64 bytes
    entries  count × 64 bytes, sorted by the full path's bytes
    names    the paths, back to back, without a terminator
    data     what the members hold, each 16-aligned; equal contents are stored once

Every directory on the way to a member is an entry too, "/" always being the first. A directory's data are
ready-made `struct linux_dirent64` records (getdents64(2)), so that serving a listing is a copy; `d_off` is the
offset of the next record, which makes lseek(2) on a copy of them do what seekdir(3) expects. There are no symbolic
links: the writer resolves them. There is no index beside the sorted entries: 5,000 members as Python objects cost
2.5 MB a process.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence

MAGIC = b"FILDPAK1"
VERSION = 1
ALIGN = 16
ROOT = "/"

HEADER = struct.Struct("<8sIIQQQQQ8x")
"""magic, version, count, entries_off, names_off, names_len, data_off, total_size"""

ENTRY = struct.Struct("<IIIIQQqQ16s")
"""name_off (into names), name_len, mode, parent index, data_off (in the file), size, mtime (s), reserved, etag"""

MAX_MEMBERS = 1 << 20
MAX_PATH = 4095
MAX_NAME = 255
MAX_SIZE = 1 << 40
MAX_MTIME = 1 << 40

_DIRENT = struct.Struct("<QqHB")
DT_DIR = 4
DT_REG = 8


class PackError(ValueError):
    """This is not a pack that may be used, or not a tree that can become one; the sentence says why."""


def aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def check_path(path: bytes) -> str | None:
    """What is wrong with a member's path, or None. Members are absolute and already normal: "/", "/app/main.py"."""
    if path == b"/":
        return None
    if not path.startswith(b"/") or path.endswith(b"/"):
        return "a member's path starts with a slash and ends without one"
    if len(path) > MAX_PATH:
        return f"a path is longer than {MAX_PATH} bytes"
    if b"\0" in path:
        return "a path holds a NUL byte"
    for part in path[1:].split(b"/"):
        if part in (b"", b".", b".."):
            return f"a path holds {part.decode()!r} as a component"
        if len(part) > MAX_NAME:
            return f"a name is longer than {MAX_NAME} bytes"
    return None


def check_mode(mode: int) -> bool:
    """Regular files and directories only; set-id and sticky bits have no meaning here."""
    return stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR) and mode & ~(0o170777) == 0


def dirents(records: Sequence[tuple[int, int, bytes]]) -> bytes:
    """getdents64(2) records of (d_ino, d_type, name); every record is a multiple of 8 bytes."""
    out = bytearray()
    for inode, kind, name in records:
        start = len(out)
        length = -(-(_DIRENT.size + len(name) + 1) // 8) * 8
        out += _DIRENT.pack(inode, start + length, length, kind) + name
        out += bytes(start + length - len(out))
    return bytes(out)


def parse_dirents(data: bytes) -> list[tuple[int, int, bytes]]:
    """The records back as (d_ino, d_type, name). Raises PackError for anything `dirents` would not have written."""
    out = []
    at = 0
    while at < len(data):
        if at + _DIRENT.size > len(data):
            raise PackError("a directory's last record is cut off")
        inode, following, length, kind = _DIRENT.unpack_from(data, at)
        end = at + length
        if length % 8 or length < 24 or end > len(data) or following != end:
            raise PackError("a directory's record has an impossible length")
        name, zero, _ = data[at + _DIRENT.size : end].partition(b"\0")
        if not zero or not name or b"/" in name:
            raise PackError("a directory's record has no proper name")
        out.append((inode, kind, name))
        at = end
    return out
