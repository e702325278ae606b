"""execve(2) of this package's own interpreter image, with chosen descriptors and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from fildes.kernel.fds import Fd


def execute(role: str, words: Sequence[str], numbers: Iterable[int]) -> NoReturn:
    """Become `role` of __main__.py, the descriptors `numbers` left open. Returns only by raising.

    Isolated and without `site`: neither the environment nor a .pth file decides what PID 1 runs. All signals stay
    blocked until the new image has its handlers: to PID 1 a SIGTERM without a handler is lost.
    """
    main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    arguments = [sys.executable, "-I", "-S", "-X", "utf8", main, role, *words]
    kept = set(numbers) - {0, 1, 2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for number in kept:
            os.set_inheritable(number, True)
        os.execve(arguments[0], arguments, {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"})
    finally:
        for number in kept:
            os.set_inheritable(number, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def inherited(number: int) -> Fd:
    """A descriptor that came through execve: ours, and close-on-exec again."""
    os.set_inheritable(number, False)
    return Fd(number)
