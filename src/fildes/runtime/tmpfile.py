"""A Python file in /tmp, with an offset of its own.

Under the trap two opens of one name share the kernel's offset (shim/tmp.c says why). Here reads and writes name theirs,
so two file objects are as independent as they would be elsewhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any


class TmpFile(io.FileIO):
    """As io.FileIO; the kernel's offset of the descriptor is neither used nor moved."""

    def __init__(self, path: str, mode: str, opener: Callable[[str, int], int] | None = None) -> None:
        # O_APPEND would make pwrite(2) ignore its offset, and it would belong to all who have the file open.
        self._append = "a" in mode
        self._at = 0

        def open_(path: str, flags: int) -> int:
            flags &= ~os.O_APPEND
            return os.open(path, flags, 0o666) if opener is None else opener(path, flags)

        super().__init__(path, mode, opener=open_)
        if self._append:
            self._at = self._end()

    def _end(self) -> int:
        return os.fstat(self.fileno()).st_size

    def readinto(self, buffer: Any) -> int:
        self._checked(self.readable(), "reading")
        got = os.preadv(self.fileno(), [buffer], self._at)
        self._at += got
        return got

    def read(self, size: int | None = -1) -> bytes:
        self._checked(self.readable(), "reading")
        if size is None or size < 0:
            return self.readall()
        data = os.pread(self.fileno(), size, self._at)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        self._checked(self.readable(), "reading")
        parts = []
        while data := os.pread(self.fileno(), max(65536, self._end() - self._at + 1), self._at):
            parts.append(data)
            self._at += len(data)
        return b"".join(parts)

    def write(self, data: Any) -> int:
        self._checked(self.writable(), "writing")
        if self._append:
            self._at = self._end()
        done = os.pwrite(self.fileno(), data, self._at)
        self._at += done
        return done

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: -1}[whence]
        at = offset + (self._end() if start < 0 else start)
        if at < 0:
            raise OSError(22, os.strerror(22))
        self._at = at
        return at

    def tell(self) -> int:
        self.fileno()  # raises ValueError when closed
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self._checked(self.writable(), "writing")
        size = self._at if size is None else size
        os.ftruncate(self.fileno(), size)
        return size

    def seekable(self) -> bool:
        self.fileno()
        return True

    def _checked(self, able: bool, what: str) -> None:
        if not able:
            raise io.UnsupportedOperation(f"File not open for {what}")


def open_in_tmp(
    path: str,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    """As io.open, of a path in /tmp."""
    binary = "b" in mode
    if not set(mode) <= set("rwxabt+") or len(set(mode) & set("rwxa")) != 1 or (binary and "t" in mode):
        raise ValueError(f"invalid mode: {mode!r}")
    if binary and (encoding is not None or errors is not None or newline is not None):
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    if not closefd:
        raise ValueError("Cannot use closefd=False with file name")
    if buffering == 0 and not binary:
        raise ValueError("can't have unbuffered text I/O")
    raw = TmpFile(path, mode.replace("b", "").replace("t", ""), opener)
    try:
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering in (-1, 1) else buffering
        buffered: Any
        if "+" in mode:
            buffered = io.BufferedRandom(raw, size)
        elif "r" in mode:
            buffered = io.BufferedReader(raw, size)
        else:
            buffered = io.BufferedWriter(raw, size)
        if binary:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text
    except BaseException:
        raw.close()
        raise
