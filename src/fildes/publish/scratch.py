"""The publish process's directory: jobs under way, which a start sweeps, and locks made before, which stay.

jobs/ID/src       what was uploaded, unpacked       (ours)
jobs/ID/bundle    its canonical tar                 (ours)
locks/HASH        the lock made for requirements    (ours)
cell/             the runner's: caches, wheels, packs
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from typing import Final

from fildes.kernel.fds import Fd

MAX_LOCKS: Final = 20_000
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Scratch:
    """`directory` is owned. Raises OSError (ENOSPC among them) from everything that writes."""

    def __init__(self, directory: Fd) -> None:
        self._directory = directory
        here = directory.fileno()
        # The cell's uid may write to the last one, and reaches it only inside of the cell: the way to it is closed.
        for name, mode in (("jobs", 0o700), ("locks", 0o700), ("cell", 0o1777)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=here)
            with Fd.open(name, _DIRECTORY, dir_fd=here) as fd:
                os.fchmod(fd.fileno(), mode)
        with Fd.open("jobs", _DIRECTORY, dir_fd=here) as jobs:
            for name in os.listdir(jobs.fileno()):
                shutil.rmtree(name, ignore_errors=True, dir_fd=jobs.fileno())

    def cell(self) -> str:
        """The path of the runner's part."""
        return os.readlink(f"/proc/self/fd/{self._directory.fileno()}") + "/cell"

    def begin(self, job: str) -> Job:
        return Job(self._directory.fileno(), job)

    def lock_for(self, key: str) -> bytes | None:
        """The lock that was kept under `key`."""
        try:
            with Fd.open(f"locks/{key}", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._directory.fileno()) as file:
                os.utime(file.fileno())  # the least used ones go first
                return os.pread(file.fileno(), 4 << 20, 0)
        except FileNotFoundError:
            return None

    def keep_lock(self, key: str, lock: bytes) -> None:
        here = self._directory.fileno()
        temporary = f"locks/{key}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600, dir_fd=here), "wb") as file:
            file.write(lock)
        os.rename(temporary, f"locks/{key}", src_dir_fd=here, dst_dir_fd=here)
        with Fd.open("locks", _DIRECTORY, dir_fd=here) as locks:
            names = os.listdir(locks.fileno())
            if len(names) > MAX_LOCKS:
                ages = sorted((os.stat(name, dir_fd=locks.fileno()).st_mtime, name) for name in names)
                for _, name in ages[: len(names) - MAX_LOCKS + MAX_LOCKS // 10]:
                    os.unlink(name, dir_fd=locks.fileno())

    def close(self) -> None:
        self._directory.close()


class Job:
    """The directory of one publish; `sweep` removes it."""

    def __init__(self, scratch: int, name: str) -> None:
        self.name = name
        self._scratch = scratch
        os.mkdir(f"jobs/{name}", 0o700, dir_fd=scratch)

    def new_file(self, name: str) -> Fd:
        """A new file, to be written and then read."""
        return Fd.open(f"jobs/{self.name}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._scratch)

    def read_only(self, name: str) -> Fd:
        """The same file again, for somebody who is to read it only."""
        return Fd.open(f"jobs/{self.name}/{name}", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._scratch)

    def sweep(self) -> None:
        shutil.rmtree(f"jobs/{self.name}", ignore_errors=True, dir_fd=self._scratch)


def digest(*words: str | Sequence[str]) -> str:
    """A name for what the words say, unambiguous however they are cut."""
    whole = hashlib.sha256()
    for word in words:
        for part in [word] if isinstance(word, str) else [str(len(word)), *word]:
            whole.update(f"{len(part)}:{part}".encode())
    return whole.hexdigest()
