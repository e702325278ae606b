"""A process's descriptor table, as /proc tells it (proc_pid_fd(5), proc_pid_fdinfo(5))."""

from __future__ import annotations

import os
import stat
from typing import Final

from fildes.wire.drivers import FdEntry, FdTable

_MOST: Final = 4096  # descriptors told of one process


def table(pid: int) -> FdTable:
    """Never raises OSError: what could not be read is said in `error`."""
    try:
        numbers = sorted(int(entry) for entry in os.listdir(f"/proc/{pid}/fd"))
    except OSError as error:
        return FdTable(pid, [], _why(error))
    entries = [entry for number in numbers[:_MOST] if (entry := _entry(pid, number)) is not None]
    more = len(numbers) - _MOST
    return FdTable(pid, entries, f"{more} more are not shown" if more > 0 else "")


def _entry(pid: int, number: int) -> FdEntry | None:
    """None: it was closed meanwhile."""
    path = f"/proc/{pid}/fd/{number}"
    try:
        target = os.readlink(path.encode()).decode(errors="backslashreplace")
        flags, pos = _info(pid, number)
        return FdEntry(number, target, kind(target) or _kind_of_file(path), flags, pos)
    except FileNotFoundError:
        return None
    except OSError as error:
        return FdEntry(number, f"({_why(error)})", "unknown", 0, 0)


def _info(pid: int, number: int) -> tuple[int, int]:
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
    return int(fields.get("flags", "0"), 8), int(fields.get("pos", "0"))


def kind(target: str) -> str:
    """What a link's text says by itself, or ""."""
    if target.startswith("/memfd:"):
        return "memfd"
    word, colon, rest = target.partition(":")
    if not colon or "/" in word:
        return ""
    if word == "anon_inode":
        return rest.strip("[]")
    return word if rest.startswith("[") else ""


def _kind_of_file(path: str) -> str:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "socket" if stat.S_ISSOCK(mode) else "file"


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return "the process has ended"
    if isinstance(error, PermissionError):
        return "the kernel does not let this user look; fildes doctor says what is missing"
    return error.strerror or str(error)
