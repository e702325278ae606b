"""Work that must not be done in this process: it blocks, or it enters another namespace."""

from __future__ import annotations

import os
import signal
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from fildes.kernel import process
from fildes.kernel.fds import Fd
from fildes.kernel.loop import EPOLLIN, Loop, Promise

_REMEMBERED: Final = 256
_PATIENCE: Final = 0.25  # seconds


class ChildFailed(Exception):
    """The work raised; the text says what."""


async def in_child(loop: Loop, work: Callable[[], object]) -> None:
    """Run `work` in a forked child and wait for its end. Raises ChildFailed."""
    reader, writer = (Fd(number) for number in os.pipe2(os.O_CLOEXEC))
    pid = os.fork()
    if pid == 0:
        _work(work, writer.fileno())
    writer.close()
    ended: Promise[None] = Promise(loop)
    with reader, process.pidfd_open(pid) as pidfd:
        loop.watch(pidfd.fileno(), EPOLLIN, lambda _: ended.resolve(None))
        try:
            await ended
        finally:
            loop.unwatch(pidfd.fileno())
        _, status = os.waitpid(pid, 0)
        if status != 0:
            text = os.read(reader.fileno(), 4096).decode("utf-8", "replace")
            raise ChildFailed(text or f"a helper process ended with status {status}")


def _work(work: Callable[[], object], writer: int) -> None:
    try:
        signal.set_wakeup_fd(-1)
        work()
    except BaseException as error:
        traceback.print_exc()
        os.write(writer, f"{type(error).__name__}: {error}".encode()[:4096])
        os._exit(1)
    os._exit(0)


class Exits:
    """How zygotes ended: init, whose children they are, reaps them and tells."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._known: OrderedDict[int, int] = OrderedDict()
        self._awaited: dict[int, Promise[int | None]] = {}

    def note(self, pid: int, status: int) -> None:
        awaited = self._awaited.pop(pid, None)
        if awaited is not None:
            awaited.resolve(status)
            return
        self._known[pid] = status
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def of(self, pid: int) -> int | None:
        """The waitpid(2) status of a process that is gone; None if init does not tell within a moment."""
        if pid in self._known:
            return self._known.pop(pid)
        promise: Promise[int | None] = Promise(self._loop)
        self._awaited[pid] = promise
        timer = self._loop.call_later(_PATIENCE, lambda: promise.resolve(None))
        try:
            return await promise
        finally:
            timer.cancel()
            self._awaited.pop(pid, None)


def reap(loop: Loop, pid: int) -> None:
    """Wait for a child of ours that ends soon, without stopping the loop."""
    pidfd = process.pidfd_open(pid)

    def ended(_: int) -> None:
        loop.unwatch(pidfd.fileno())
        pidfd.close()
        os.waitpid(pid, 0)

    loop.watch(pidfd.fileno(), EPOLLIN, ended)
