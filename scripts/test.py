"""All tests: the pieces below, two at a time, each line of what they print behind the name of its piece.

Most tests wait, for a deadline, a daemon that was killed, a package index: two at a time take little more than half as
long. They are many nodes on one machine, which have nothing in common.

What fails is run once more, alone, when all the rest is over, and both runs are seen: these tests start real processes
and meet real deadlines, and a machine that others load can miss one. What fails twice has failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.chdir(Path(__file__).parents[1])
AT_ONCE = 2
AGAIN = ("--last-failed", "--last-failed-no-failures", "none", "--maxfail=10")
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "--durations=8", "--durations-min=3")


class Piece(NamedTuple):
    name: str
    command: tuple[str, ...]
    tests: bool = True  # pytest's: 1 is the status of failed tests, and they can be run again


PROGRAMS = "tests/journeys/test_real_programs_*.py"
APART = ("tests/journeys", "tests/kernel", "tests/security")  # the last piece of tests is all the rest
# The longest first. Of the oldest Python: what depends on the interpreter.
PIECES = (
    Piece("journeys", (*PYTEST, "tests/journeys", f"--ignore-glob={PROGRAMS}")),
    Piece("kernel", (*PYTEST, "tests/kernel")),
    Piece("programs", (*PYTEST, *sorted(map(str, Path().glob(PROGRAMS))))),
    Piece("3.11", ("sh", "scripts/test-other-python.sh", "tests/unit", "tests/kernel/asgi", "tests/kernel/wsgi",
                   "tests/kernel/trap", "tests/journeys/test_examples.py")),
    Piece("security", (*PYTEST, "tests/security")),
    Piece("unit", (*PYTEST, "tests", *(f"--ignore={folder}" for folder in APART))),
    Piece("mypy", (PYTHON, "-m", "mypy"), tests=False),
)  # fmt: skip


class Done(NamedTuple):
    piece: Piece
    status: int
    seconds: float


class Runs:
    """The pieces that run now, to be ended with us."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._over = False

    def run(self, piece: Piece, more: Sequence[str] = ()) -> Done:
        """Run it to its end, and pass on what it prints line by line."""
        began = time.monotonic()
        command = [*piece.command, *more]
        if piece.tests:
            command += ["-o", f"cache_dir=.pytest_cache/{piece.name}"]
        with self._lock:
            if self._over:
                return Done(piece, 2, 0.0)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace",
            )  # fmt: skip
            self._processes.add(process)
        with process:
            for line in process.stdout or ():
                self.say(piece.name, line.rstrip("\n"))
        with self._lock:
            self._processes.remove(process)
        done = Done(piece, process.returncode, time.monotonic() - began)
        self.say(piece.name, f"— ended with {done.status} after {done.seconds:.0f} s —")
        return done

    def say(self, name: str, text: str) -> None:
        with self._lock:
            print(f"{name:8} | {text}", flush=True)

    def end(self) -> None:
        """SIGINT, by which pytest takes down its nodes in order."""
        with self._lock:
            self._over = True
            for process in self._processes:
                process.send_signal(signal.SIGINT)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runs, began = Runs(), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            done = list(pool.map(runs.run, PIECES))
        except KeyboardInterrupt:
            runs.end()
            raise
    failed = [one for one in done if one.status]
    if again := [one.piece for one in failed if one.piece.tests and one.status == 1]:
        print(f"test: once more, only what failed: {', '.join(piece.name for piece in again)}", flush=True)
        failed = [one for one in failed if one.piece not in again]
        failed += [one for one in (runs.run(piece, AGAIN) for piece in again) if one.status]
    print(f"test: {time.monotonic() - began:.0f} s")
    for one in failed:
        print(f"test: {one.piece.name} FAILED")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
