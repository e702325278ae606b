"""Tells the orchestrator whether this instance takes connections, so that it starts another one when nobody does.

An instance is full and open again many times a second under load; what is told is how it is some moments later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

LOOK = 0.02  # s from a change until it is told, if it still holds; so there are fifty words a second at the most


class Fullness:
    """`later(seconds, callback)` is the loop's. Until the first change an instance is taken to be open."""

    def __init__(self, handle: int, later: Callable[[float, Callable[[], object]], object]) -> None:
        self._handle = handle
        self._later = later
        self._full = False
        self._said = False
        self._looking = False
        self._closed = False

    def close(self) -> None:
        """Say nothing any more: the handle's number may soon be another descriptor's."""
        self._closed = True

    def now(self, full: bool) -> None:
        """Connections are left in the conveyor from now on, or taken again."""
        self._full = full
        if full is not self._said and not self._looking:
            self._looking = True
            self._later(LOOK, self._look)

    def _look(self) -> None:
        self._looking = False
        if self._full is not self._said and not self._closed:
            self.say()

    def say(self) -> None:
        """How it is now: because it has changed, or because somebody asks."""
        self._said = self._full
        with contextlib.suppress(OSError):  # nobody there, or a queue full of such words
            os.write(self._handle, b"F" if self._full else b"O")
