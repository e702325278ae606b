"""Running a function in a forked child: for what can't be undone, such as a filter, or a namespace.

The child is always ended with `_exit`, holds no descriptor but 0, 1, 2, its result pipe and what `keep` lists, and is
killed, by its pid, when it takes too long: nothing stays behind, also when a test fails.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from fildes.kernel import process

T = TypeVar("T")


class Ended(Exception):
    """The child ended without a result: `status` is as of os.waitstatus_to_exitcode."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Raised(Exception):
    """The function raised in the child; the text is its traceback."""


class Child(NamedTuple):
    """A child that runs; `result()` waits for it."""

    pid: int
    pipe: int
    deadline: float

    def result(self) -> Any:
        """What the function returned. Raises Raised, Ended, or TimeoutError (the child is then killed)."""
        data = b""
        try:
            while True:
                left = self.deadline - time.monotonic()
                if left <= 0 or not select.select([self.pipe], [], [], left)[0]:
                    raise TimeoutError(f"child {self.pid} took too long and was killed")
                if not (part := os.read(self.pipe, 1 << 16)):
                    break
                data += part
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(self.pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if not data:
            raise Ended(status, f"child {self.pid} ended with {status} and no result")
        kind, value = pickle.loads(data)
        if kind == "raised":
            raise Raised(value)
        return value

    def kill(self) -> None:
        """Kill and reap it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def start(function: Callable[[], object], *, timeout: float = 20.0, keep: Collection[int] = ()) -> Child:
    """Run `function()` in a child; its result must be picklable."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(function, writer, keep)
    os.close(writer)
    return Child(pid, reader, time.monotonic() + timeout)


def run(function: Callable[[], T], *, timeout: float = 20.0, keep: Collection[int] = ()) -> T:
    """`function()`, run in a child, waited for."""
    result: T = start(function, timeout=timeout, keep=keep).result()
    return result


def _child(function: Callable[[], object], writer: int, keep: Collection[int]) -> None:
    """Never returns."""
    status = 1
    try:
        process.set_parent_death_signal(signal.SIGKILL)
        process.close_all_but({0, 1, 2, writer, *keep})
        outcome: tuple[str, object]
        try:
            outcome = ("returned", function())
        except BaseException:
            outcome = ("raised", traceback.format_exc())
        data = pickle.dumps(outcome)
        while data:
            data = data[os.write(writer, data) :]
        status = 0
    finally:
        os._exit(status)
