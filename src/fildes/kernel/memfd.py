"""Sealed anonymous files: immutable once made, safe to share with those one does not trust (memfd_create(2))."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from typing import Final

from fildes.kernel.fds import Fd

F_SEAL_ALL: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
MFD_NOEXEC_SEAL: Final = 0x0008  # 6.3; older kernels answer EINVAL


def create(name: str, flags: int = 0) -> Fd:
    """An empty memfd, never executable where the kernel knows how to say so."""
    flags |= os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return Fd(os.memfd_create(name, flags | MFD_NOEXEC_SEAL))
    except OSError:
        return Fd(os.memfd_create(name, flags))


def sealed(name: str, data: bytes) -> Fd:
    """A memfd holding `data` that nobody can change, positioned at its start."""
    return sealed_parts(name, [data])


def sealed_parts(name: str, parts: Iterable[bytes]) -> Fd:
    """The same with what `parts` are together, which need not be in memory at once."""
    fd = create(name)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(fd.fileno(), view) :]
        os.lseek(fd.fileno(), 0, os.SEEK_SET)
        fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, F_SEAL_ALL)
    except BaseException:
        fd.close()
        raise
    return fd


def read_sealed(fd: int, limit: int = 256 * 1024 * 1024) -> bytes:
    """All bytes of a sealed memfd of at most `limit` bytes.

    Raises ValueError if it is not fully sealed: its holder could change it while it is read.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ValueError("not a memfd: it cannot be sealed") from error
    if seals & F_SEAL_ALL & ~fcntl.F_SEAL_SEAL != F_SEAL_ALL & ~fcntl.F_SEAL_SEAL:
        raise ValueError("a memfd that is not sealed against writing, growing and shrinking is not believed")
    size = os.fstat(fd).st_size
    if size > limit:
        raise ValueError(f"a sealed memfd of {size} bytes is larger than the {limit} allowed here")
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(fd, min(size - offset, 1 << 24), offset)
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
