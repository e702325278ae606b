"""The state directory: one node at a time, of a version that is known, each daemon's part its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from fildes.init.layout import STEPS, VERSION
from fildes.kernel.fds import Fd, close_all

LOCK: Final = "lock"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Trouble(Exception):
    """The node can't start, for a reason that its user can do something about: the sentence says what."""


class Busy(Trouble):
    """Another node runs on this state directory."""


class Ground:
    """A state directory, locked by this process and whoever inherits `lock`."""

    def __init__(self, path: str, directory: Fd, lock: Fd) -> None:
        self.path, self.directory, self.lock = path, directory, lock

    @classmethod
    def take(cls, path: str) -> Ground:
        """Make the directory if need be, and lock it. Raises Busy, Trouble."""
        path = os.path.abspath(path)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            directory = Fd.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Trouble(f"--state {path}: {error.strerror}: name a directory that you may write to") from error
        try:
            lock = _lock(path, directory.fileno())
        except BaseException:
            directory.close()
            raise
        ground = cls(path, directory, lock)
        try:
            ground._check_version()
        except BaseException:
            ground.close()
            raise
        return ground

    def subdirectory(self, name: str, owner: int | None) -> Fd:
        """The directory `name`, made if need be, private to uid `owner` (None: to us)."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self.directory.fileno())
        try:
            fd = Fd.open(name, _DIRECTORY, dir_fd=self.directory.fileno())
        except OSError as error:
            raise Trouble(
                f"{self.path}/{name}: {error.strerror}: it belongs to uid {self._owner_of(name)}; "
                "run `fildes up` as the user who ran it before, or name another state directory"
            ) from error
        if owner is not None and os.fstat(fd.fileno()).st_uid != owner:
            _give(fd.fileno(), owner)
        return fd

    def close(self) -> None:
        close_all((self.directory, self.lock))

    def _owner_of(self, name: str) -> int:
        return os.stat(name, dir_fd=self.directory.fileno(), follow_symlinks=False).st_uid

    def _check_version(self) -> None:
        text = read(self.directory.fileno(), "VERSION").strip()
        if not text:
            if others := set(os.listdir(self.directory.fileno())) - {LOCK}:
                names = ", ".join(sorted(others)[:3])
                raise Trouble(
                    f"--state {self.path}: this is not a state directory, but holds {names}: name an empty directory"
                )
            write(self.directory.fileno(), "VERSION", f"{VERSION}\n")
            return
        if not text.isdecimal() or not 0 < int(text) <= VERSION:
            raise Trouble(
                f"--state {self.path}: its layout has version {text[:20]}, this Fildes knows {VERSION}: "
                "use the Fildes that wrote it, or a newer one"
            )
        for version in range(int(text), VERSION):
            try:
                STEPS[version](self.directory.fileno())
            except OSError as error:
                raise Trouble(
                    f"--state {self.path}: it can't be brought from version {version} to {version + 1}: "
                    f"{error.strerror}; it is as it was: make room or mend its permissions, and start again"
                ) from error
            write(self.directory.fileno(), "VERSION", f"{version + 1}\n")


def _lock(path: str, directory: int) -> Fd:
    try:
        lock = Fd.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    except OSError as error:
        raise Trouble(f"{path}/{LOCK}: {error.strerror}: the state directory belongs to somebody else") from error
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock.fileno(), 32, 0).decode("ascii", "replace").strip()
        lock.close()
        raise Busy(
            f"--state {path}: a node runs there already, as process {holder or '(unknown)'}: end it with "
            f"`fildes down --state {path}`, or name another state directory"
        ) from None
    os.ftruncate(lock.fileno(), 0)
    os.pwrite(lock.fileno(), f"{os.getpid()}\n".encode(), 0)
    return lock


def holder(directory: int) -> int | None:
    """The pid of the process that holds the lock of the state directory (borrowed); None if nobody does.

    The file only says who it should be: /proc/locks, the kernel's own list, has to agree.
    """
    try:
        with Fd.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory) as lock:
            inode = os.fstat(lock.fileno()).st_ino
            text = os.pread(lock.fileno(), 32, 0).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    with open("/proc/locks", encoding="ascii") as file:
        for line in file:
            # "1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF"
            words = line.split()
            if words[1] == "FLOCK" and words[4] == text and words[5].endswith(f":{inode}"):
                return int(text)
    return None


def cgroup_name(directory: os.stat_result) -> str:
    """The same for the same state directory, so that a node finds what its killed forerunner left."""
    return f"fildes-{directory.st_dev:x}-{directory.st_ino:x}"


def read(directory: int, name: str) -> str:
    """The text of the small file `name`; empty if there is none."""
    try:
        with Fd.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory) as file:
            return os.read(file.fileno(), 4096).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def write(directory: int, name: str, text: str, mode: int = 0o600) -> None:
    """Put the small file `name` there whole, or not at all."""
    temporary = f"{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with Fd.open(temporary, flags, mode, dir_fd=directory) as file:
        os.write(file.fileno(), text.encode())
        os.fsync(file.fileno())
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def _give(directory: int, owner: int) -> None:
    """Hand a directory and what is in it to `owner`: the node ran under other uids before."""
    for folder, folders, files in os.walk(f"/proc/self/fd/{directory}"):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), owner, owner, follow_symlinks=False)
    os.fchown(directory, owner, owner)
