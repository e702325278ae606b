"""Loads for which nobody waits, a few at a time: a node that starts has a hundred of them, and two cores."""

from __future__ import annotations

from collections import deque

from fildes.kernel.loop import Loop, Promise


class Pace:
    """`most` turns are given at a time; each is given back."""

    def __init__(self, loop: Loop, most: int) -> None:
        self._loop = loop
        self._left = most
        self._waiting: deque[Promise[None]] = deque()

    async def take(self) -> None:
        if self._left > 0:
            self._left -= 1
            return
        turn: Promise[None] = Promise(self._loop)
        self._waiting.append(turn)
        await turn

    def give(self) -> None:
        if self._waiting:
            self._waiting.popleft().resolve(None)
        else:
            self._left += 1
