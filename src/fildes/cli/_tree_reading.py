"""A tree of files that a program fills while it is read, as a tar: each file as it was when it was read.

Whose tree it is may want to lead its reader elsewhere, to make it wait, or to fill the disk that it writes to. So
nothing is opened by a path: every name is looked up in a folder that is held, follows no link, and is looked at before
it is opened for reading; and there is an end to how much is taken.

Plain tar (pax): "./", then what is in it, folders before what they hold. Sparse files have a record of their own:
FILDES.sparse = "COUNT SIZE", and before the data COUNT pairs, each of where a piece of
it begins and how long that is (64 bits each, little-endian).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import tarfile
from array import array
from typing import IO, Final

from fildes.kernel.fds import Fd, close_all

SPARSE: Final = "FILDES.sparse"
QUOTA: Final = "FILDES.quota"
LONGEST: Final = 4095  # bytes of a path: nobody could say a longer one to the kernel (PATH_MAX)
BLOCK: Final = 512
_FOUND: Final = os.O_PATH | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_PIECE: Final = 1 << 20
_TRIES: Final = 3  # of a file that shrinks while it is read
_SPARE_FDS: Final = 64
_DEEPEST: Final = 2048


class Crowded(Exception):
    """The tree held more, one after the other, than it can hold at once."""


class Packer:
    """Writes to `spool`, a file of ours; at most `most` bytes of files (None: no end)."""

    def __init__(self, spool: IO[bytes], most: int | None) -> None:
        self._spool, self._most = spool, most
        self._taken = 0
        self._linked: dict[int, tuple[str, int, int]] = {}  # inode of several names → path, mtime, size
        self._device = -1
        self.left_out, self.example = 0, ""  # how many paths, and what is to be said of the first

    def pack(self, top: int, quota: int) -> None:
        """All that is below the open folder `top` (borrowed). `quota` is written down. Raises OSError, Crowded."""
        status = os.fstat(top)
        self._device = status.st_dev
        self._folder("", status, {QUOTA: str(quota)})
        self._walk(top)
        self._spool.write(bytes(2 * BLOCK))
        self._spool.flush()

    def _walk(self, top: int) -> None:
        most = deepest()
        # The folders on the way to here, each with the names in it that are left, and its own path.
        way: list[tuple[Fd, list[str], str]] = []
        below: Fd | None = Fd.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
        path = ""
        try:
            while below is not None or way:
                if below is not None:
                    way.append((below, [], path))
                    below = None
                    with contextlib.suppress(FileNotFoundError):  # removed before it was looked at
                        way[-1][1].extend(_names(way[-1][0].fileno()))
                folder, names, above = way[-1]
                if not names:
                    way.pop()
                    folder.close()
                    continue
                name = names.pop()
                path = f"{above}/{name}" if above else name
                below = self._entry(folder.fileno(), name, path, deep=len(way) >= most)
        finally:
            close_all([folder for folder, _, _ in way])

    def _entry(self, folder: int, name: str, path: str, *, deep: bool) -> Fd | None:
        """Write down one name; of a folder the open folder."""
        if len(os.fsencode(path)) > LONGEST:
            self._leave(path, "its path is too long")
            return None
        try:
            with Fd.open(name, _FOUND, dir_fd=folder) as found:
                status = os.fstat(found.fileno())
                if status.st_dev != self._device:
                    self._leave(path, "something else is mounted there")
                elif stat.S_ISDIR(status.st_mode):
                    return self._open_folder(found, status, path, deep=deep)
                elif stat.S_ISLNK(status.st_mode):
                    self._header(path, status, tarfile.SYMTYPE, os.readlink("", dir_fd=found.fileno()))
                elif stat.S_ISREG(status.st_mode) and not self._is_linked(path, status):
                    self._file(found, path, status)
        except FileNotFoundError:  # it was removed before it was read
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.EUCLEAN, errno.EWOULDBLOCK):
                self._leave(path, os.strerror(error.errno or 0))
            else:
                raise
        return None

    def _open_folder(self, found: Fd, status: os.stat_result, path: str, *, deep: bool) -> Fd | None:
        if path == "lost+found" and status.st_uid == 0:  # mke2fs's own
            return None
        self._folder(path, status)
        if deep:
            self._leave(path, "what is in it lies too deep")
            return None
        return Fd.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=found.fileno())

    def _is_linked(self, path: str, status: os.stat_result) -> bool:
        """Whether it was written as another name of a file that was read before, and is still what it was."""
        if status.st_nlink == 1 or status.st_ino not in self._linked:
            return False
        before, *version = self._linked[status.st_ino]
        if version != [status.st_mtime_ns, status.st_size]:
            return False
        self._header(path, status, tarfile.LNKTYPE, before)
        return True

    def _file(self, found: Fd, path: str, status: os.stat_result) -> None:
        # What was found is what is opened, whatever its name has become; and it is a plain file.
        with Fd.open(f"/proc/self/fd/{found.fileno()}", _READ) as file:
            begin = self._spool.tell()
            for _ in range(_TRIES):
                whole = False
                try:
                    whole = self._content(file.fileno(), path)
                finally:
                    if not whole:
                        self._spool.seek(begin)
                        self._spool.truncate()
                if whole:
                    if status.st_nlink > 1:
                        self._linked[status.st_ino] = path, status.st_mtime_ns, status.st_size
                    return
            self._leave(path, "it shrank again and again while it was read")

    def _content(self, file: int, path: str) -> bool:
        """Whether all of it was there still."""
        status = os.fstat(file)
        size, records, pieces = status.st_size, {}, array("Q", (0, status.st_size))
        table = b""
        if status.st_blocks * BLOCK < size:
            pieces = _pieces(file, size)
            table = pieces.tobytes()
            records[SPARSE] = f"{len(pieces) // 2} {size}"
        held = sum(pieces[1::2])
        self._taken += held + len(table)
        if self._most is not None and self._taken > self._most:
            raise Crowded
        self._header(path, status, tarfile.REGTYPE, records=records, size=held + len(table))
        self._spool.write(table)
        for number in range(0, len(pieces), 2):
            if not self._copy(file, pieces[number], pieces[number + 1]):
                return False
        self._spool.write(bytes(-(held + len(table)) % BLOCK))
        return True

    def _copy(self, file: int, offset: int, size: int) -> bool:
        end = offset + size
        while offset < end:
            data = os.pread(file, min(_PIECE, end - offset), offset)
            if not data:
                return False
            self._spool.write(data)
            offset += len(data)
        return True

    def _folder(self, path: str, status: os.stat_result, records: dict[str, str] | None = None) -> None:
        self._header(path or ".", status, tarfile.DIRTYPE, records=records)

    def _header(
        self,
        path: str,
        status: os.stat_result,
        kind: bytes,
        target: str = "",
        records: dict[str, str] | None = None,
        size: int = 0,
    ) -> None:
        info = tarfile.TarInfo(_text(path))
        info.type, info.linkname, info.size = kind, _text(target), size
        info.mode = stat.S_IMODE(status.st_mode)
        info.pax_headers = {"mtime": seconds(status.st_mtime_ns), **(records or {})}
        self._spool.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _leave(self, path: str, why: str) -> None:
        self.left_out += 1
        self.example = self.example or f"{ascii(path)[:200]}: {why}"


def seconds(nanoseconds: int) -> str:
    """As a pax record says a time: "-1.500000000"."""
    whole, rest = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:09d}"


def _text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _names(folder: int) -> list[str]:
    """The last one first: they are taken from the end."""
    return sorted(os.listdir(folder), reverse=True)


def _pieces(file: int, size: int) -> array[int]:
    """Where a file has something, as offset, length, offset, length … (lseek(2), SEEK_DATA)."""
    found, position = array("Q"), 0
    while position < size:
        try:
            begin = os.lseek(file, position, os.SEEK_DATA)
            end = min(os.lseek(file, begin, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing more from here on
                break
            raise
        if begin < end:
            found.extend((begin, end - begin))
        position = max(end, begin + BLOCK)  # a hole may be made where there was none a moment ago
    return found


def deepest() -> int:
    """So many folders can be held open, one within the other; raises what this process may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DEEPEST + _SPARE_FDS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _DEEPEST if soft == resource.RLIM_INFINITY else max(1, min(_DEEPEST, soft - _SPARE_FDS))
