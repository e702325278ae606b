"""Every descriptor has a reason that the kernel's own names bear out, or none."""

from __future__ import annotations

import os

from fildes.debug.explain import reasons
from fildes.wire.drivers import FdEntry


def test_reasons() -> None:
    entries = [
        FdEntry(0, "/dev/null", "device", os.O_RDONLY, 0),
        FdEntry(1, "pipe:[10]", "pipe", os.O_WRONLY, 0),
        FdEntry(3, "pipe:[11]", "pipe", os.O_RDONLY | os.O_NONBLOCK, 0),
        FdEntry(4, "pipe:[11]", "pipe", os.O_WRONLY | os.O_NONBLOCK, 0),
        FdEntry(5, "pipe:[12]", "pipe", os.O_WRONLY, 0),
        FdEntry(6, "socket:[20]", "socket", os.O_RDWR, 0),
        FdEntry(7, "socket:[21]", "socket", os.O_RDWR, 0),
        FdEntry(8, "/memfd:x (deleted)", "memfd", os.O_RDWR, 0),
        FdEntry(9, "/etc/passwd", "file", os.O_RDONLY, 0),
        FdEntry(10, "anon_inode:[timerfd]", "timerfd", os.O_RDWR, 0),
    ]
    given = {"pipe:[10]": "runtime: its log", "socket:[20]": "runtime: conveyor"}
    assert reasons(entries, given) == [
        "nothing",
        "runtime: its log",
        "its own: both ends of this pipe are here",
        "its own: both ends of this pipe are here",
        "",
        "runtime: conveyor",
        "",
        "its own: anonymous memory",
        "",
        "",
    ]
