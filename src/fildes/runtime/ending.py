"""When an instance ends: told to drain, nobody there any more, or nothing to do for long enough."""

from __future__ import annotations

from asyncio import Future, Task, TimerHandle, all_tasks
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fildes.runtime.keeping import Keeping

DRAIN = 30.0  # s for requests that run


class Ending:
    def __init__(self, serving: Keeping, idle: float) -> None:
        self.serving = serving
        self.idle = idle  # s
        self.on_idle: Callable[[], object] | None = None  # instead of ending then
        self.draining = False
        self.why = ""
        self.over: Future[None] | None = None
        self.spared: set[Task[Any] | None] = set()  # tasks that outlive the drain: whoever awaits `over`, lifespan
        self._timer: TimerHandle | None = None
        self._deadline: TimerHandle | None = None
        self._since = 0.0

    def begin(self) -> Future[None]:
        """The Future is done when the instance is to end; `why` says why."""
        self.over = self.serving.loop.create_future()
        return self.over

    def dispose(self) -> None:
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()

    def drain(self, why: str) -> None:
        """Take nothing new, close what is idle, finish what runs: `over` is done in DRAIN seconds at the latest."""
        if self.draining:
            return
        serving = self.serving
        self.draining = True
        self.why = why
        # First, so that what is still in the conveyor is for other instances.
        serving.belt.take(False)
        for connection in list(serving.connections.values()):
            owner = connection.owner
            if owner is not None:
                owner.on_drain()
            elif data := connection.read():  # it came just before we close
                serving.next_request(connection, connection.buffer + data)
            else:
                serving.close(connection)
        serving.settle_soon()
        self._deadline = serving.loop.call_later(DRAIN, self._give_up)
        self.quieten()

    def _give_up(self) -> None:
        for connection in list(self.serving.connections.values()):
            self.serving.close(connection)
        for task in all_tasks(self.serving.loop) - self.spared:
            task.cancel()
        # One more round, in which they end.
        self.serving.loop.call_soon(self._end)

    def _end(self) -> None:
        if self.over is not None and not self.over.done():
            self.over.set_result(None)

    def quieten(self) -> None:
        """Something has ended: perhaps there is nothing left to do."""
        if self.serving.is_busy() or self.over is None:
            return
        if self.draining:
            self._end()
            return
        serving = self.serving
        self._since = serving.now if serving.round else serving.time()
        if self._timer is None:
            self._timer = self.serving.loop.call_later(self.idle, self._on_quiet)

    def _on_quiet(self) -> None:
        self._timer = None
        if self.serving.is_busy() or self.draining:
            return
        left = self._since + self.idle - self.serving.time()
        if left > 0.001:
            self._timer = self.serving.loop.call_later(left, self._on_quiet)
        elif self.on_idle is not None:
            self.on_idle()
        else:
            self.drain("idle")
