"""The files of the log: per service a few segments of bounded size, numbered upwards; the oldest is deleted.

    STATE/log/guestbook.17   STATE/log/guestbook.18   …

Numbers instead of renames: a reader's place (number, offset) stays true whatever happens around it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import OrderedDict
from typing import Final, NamedTuple

from fildes.capabilities.connect.grant import SERVICE
from fildes.kernel.fds import Fd

_OPEN: Final = 64  # files kept open for writing
_BLOCK: Final = 65536
_LEAST: Final = 4096  # bytes of a segment
_NAME: Final = re.compile(r"(.+)\.([0-9]{1,18})")


class Place(NamedTuple):
    segment: int
    offset: int  # bytes


class Files:
    """Owns `directory`. Names that no service has raise ValueError; what the disk refuses raises OSError."""

    def __init__(self, directory: Fd, segments: int = 4, size: int = 1 << 20) -> None:
        """`size`: bytes of a segment, of services that were given no bound of their own."""
        self._directory, self._count, self._usual = directory, max(2, segments), size
        self._sizes: dict[str, int] = {}
        self._segments: dict[str, list[int]] = {}
        self._writing: OrderedDict[str, tuple[Fd, int]] = OrderedDict()  # with bytes written, oldest use first
        for entry in os.listdir(directory.fileno()):
            found = _NAME.fullmatch(entry)
            if found:
                self._segments.setdefault(found[1], []).append(int(found[2]))
        for numbers in self._segments.values():
            numbers.sort()

    def services(self) -> list[str]:
        return sorted(self._segments)

    def bound(self, service: str, size: int) -> None:
        """Keep `size` bytes of it at the most from now on; what is older and more goes."""
        self._sizes[service] = max(_LEAST, size // self._count)
        numbers = self._segments.get(service, [])
        while len(numbers) > 1 and sum(self._length(service, number) for number in numbers) > size:
            self._unlink(service, numbers.pop(0))

    def append(self, service: str, data: bytes) -> None:
        """Write whole lines. What did not fit on the disk is cut off again."""
        most = self._size(service)
        while len(data) > most:
            cut = data.rfind(b"\n", 0, most) + 1 or data.find(b"\n") + 1 or len(data)
            self._append(service, data[:cut])
            data = data[cut:]
        if data:
            self._append(service, data)

    def _append(self, service: str, data: bytes) -> None:
        fd, size = self._writer(service, len(data))
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd.fileno(), view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd.fileno(), size)
            raise
        self._writing[service] = fd, size + len(data)

    def end(self, service: str) -> Place:
        """Where the next line will be written, or would be."""
        numbers = self._segments.get(service)
        if not numbers:
            return Place(0, 0)
        return Place(numbers[-1], self._length(service, numbers[-1]))

    def tail(self, service: str, lines: int) -> Place:
        """Where the last `lines` lines begin."""
        place = self.end(service)
        for number in reversed(self._segments.get(service, [])):
            with self.open(service, number) as fd:
                at, found = _start_of_last(fd.fileno(), self._length(service, number), lines)
            place = Place(number, at)
            lines -= found
            if lines <= 0:
                break
        return place

    def open(self, service: str, number: int) -> Fd:
        """A segment for reading. FileNotFoundError: it was the oldest, and is gone."""
        return Fd.open(self._name(service, number), os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._directory.fileno())

    def after(self, service: str, number: int) -> int | None:
        """The segment that follows `number`, or None if that is the newest."""
        return next((each for each in self._segments.get(service, ()) if each > number), None)

    def forget(self, service: str) -> None:
        """Delete all of it."""
        if service in self._writing:
            self._writing.pop(service)[0].close()
        self._sizes.pop(service, None)
        for number in self._segments.pop(service, ()):
            self._unlink(service, number)

    def close(self) -> None:
        for fd, _ in self._writing.values():
            fd.close()
        self._writing.clear()
        self._directory.close()

    def _size(self, service: str) -> int:
        return self._sizes.get(service, self._usual)

    def _writer(self, service: str, coming: int) -> tuple[Fd, int]:
        if service in self._writing:
            self._writing.move_to_end(service)
            fd, size = self._writing[service]
            if not size or size + coming <= self._size(service):
                return fd, size
            del self._writing[service]
            fd.close()
        numbers = self._segments.setdefault(service, [])
        number = numbers[-1] if numbers else 1
        if numbers and self._length(service, number) + coming > self._size(service):
            number += 1
        fd = Fd.open(
            self._name(service, number),
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW,
            0o600,
            dir_fd=self._directory.fileno(),
        )
        if number not in numbers:
            numbers.append(number)
        while len(numbers) > self._count:
            self._unlink(service, numbers.pop(0))
        self._writing[service] = fd, os.fstat(fd.fileno()).st_size
        if len(self._writing) > _OPEN:
            self._writing.popitem(last=False)[1][0].close()
        return self._writing[service]

    def _length(self, service: str, number: int) -> int:
        try:
            return os.stat(self._name(service, number), dir_fd=self._directory.fileno(), follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def _unlink(self, service: str, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name(service, number), dir_fd=self._directory.fileno())

    def _name(self, service: str, number: int) -> str:
        if not SERVICE.fullmatch(service):
            raise ValueError(f"{service[:64]!r} is not a service's name")
        return f"{service}.{number}"


def _start_of_last(fd: int, size: int, lines: int) -> tuple[int, int]:
    """(offset of the last `lines` lines of a file, how many of them it has)"""
    found, at = 0, size
    while at > 0 and lines > 0:
        block = max(0, at - _BLOCK)
        data = os.pread(fd, at - block, block)
        end = len(data)
        while (end := data.rfind(b"\n", 0, end)) >= 0:
            if block + end + 1 == size:
                continue  # the end of the last line begins none
            found += 1
            if found == lines:
                return block + end + 1, found
        at = block
    return (0, found + 1) if size and lines > 0 else (size, 0)
