"""A person at a terminal: types, and sees what is shown."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time

from fildes.testing import Node


class Terminal:
    """`fildes WORDS…` on a terminal of its own, which it controls, as a shell would start it."""

    def __init__(self, node: Node, *words: str, size: tuple[int, int] = (80, 24)) -> None:
        self.master, slave = os.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fildes.cli", *words],
            env=os.environ | {"FILDES_STATE": str(node.state), "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one thread
        )
        self.slave = slave
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        if self.master >= 0:
            os.close(self.master)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def types(self, text: str) -> None:
        os.write(self.master, text.encode())

    def sees(self, text: str, timeout: float = 15.0) -> str:
        """Wait until `text` is shown; what was shown since the last time, up to it."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown; this was: {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536).decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def ends(self, timeout: float = 15.0) -> int:
        """Its exit status; what it showed last is in `seen`."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end; it showed: {self.seen!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536).decode()
        while select.select([self.master], [], [], 0.0)[0]:
            self.seen += os.read(self.master, 65536).decode()
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Whether its settings are those that it had."""
        return termios.tcgetattr(self.slave) == self.before

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self.master)
        self.master = -1
