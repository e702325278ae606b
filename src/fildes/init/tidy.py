"""What must be gone when a node has ended: processes, the control socket, the note of its addresses."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

CONTROL: Final = "control"
HTTP: Final = "http"


def kill_the_rest() -> None:
    """Kill and reap every process that is still below init: all of the PID namespace, or every child there is."""
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    while True:
        if os.getpid() != 1:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)  # a subreaper inherits the children of what it kills: look again after each
        except ChildProcessError:
            return


def _children() -> list[int]:
    with open("/proc/thread-self/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def state(directory: int) -> None:
    """Remove from the state directory (borrowed) what is true only while a node runs."""
    for name in (CONTROL, HTTP):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
