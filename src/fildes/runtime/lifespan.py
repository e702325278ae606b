"""The lifespan of an ASGI program: startup before its first request, shutdown after its last (ASGI lifespan 2.0)."""

from __future__ import annotations

import sys
import traceback
from asyncio import AbstractEventLoop, CancelledError, Future, Task
from collections.abc import MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

STARTUP, RUNNING, SHUTDOWN = range(3)


class StartupFailed(Exception):
    """The program said that it can't start; the text is its own."""


class Lifespan:
    def __init__(self, loop: AbstractEventLoop, program: Any, state: dict[str, Any]) -> None:
        self.loop = loop
        self.program = program
        self.state = state
        self.task: Task[None] | None = None
        self._stage = STARTUP
        self._asked = False
        self._answer: Future[str | None] = loop.create_future()  # None, or why it failed
        self._leave: Future[None] = loop.create_future()
        self._supported = True

    async def startup(self) -> None:
        """Raises StartupFailed. A program that knows no lifespan raises on its scope: then there is none."""
        self.task = Task(self._run(), loop=self.loop)
        failed = await self._answer
        if failed is not None:
            raise StartupFailed(failed or "the program's startup failed")
        self._stage = RUNNING

    async def shutdown(self) -> None:
        """Ends when the program has shut down; its errors are printed."""
        if self.task is None or self.task.done():
            return
        self._stage = SHUTDOWN
        self._answer = self.loop.create_future()
        self._leave.set_result(None)
        failed = await self._answer
        if failed:
            print(f"fildes: the program's shutdown failed: {failed}", file=sys.stderr)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.program(scope, self._receive, self._send)
        except CancelledError:
            raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # Raising is how a program says that it knows no lifespan; but not after it took the message of its
            # startup, and not by an import or a file that was refused.
            knows = self._asked or isinstance(error, ImportError | OSError)
            if self._stage != STARTUP or knows:
                traceback.print_exception(error, file=sys.stderr)
            if self._stage == STARTUP and knows:
                self._reply(f"{type(error).__name__}: {error}")
        finally:
            self._reply(None)

    def _reply(self, failed: str | None) -> None:
        if not self._answer.done():
            self._answer.set_result(failed)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._leave
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            self._reply(None)
        elif kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._reply(message.get("message") or "")
        else:
            raise RuntimeError(f"a lifespan has no message {kind!r}")
