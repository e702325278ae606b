"""What an operator waits for: up, ps, publish."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, median_of, ms
from bench.stand import APPS, Effort, Stand
from fildes.testing.node import Node


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    took = median_of(effort.ups, _up)
    yield Row("`fildes up` until it serves", ms(took * 1e3), goal="≤ 1 s", met=took <= 1)
    yield Row("`fildes ps`, the whole command", ms(median_of(effort.commands, lambda: _command(stand, "ps")) * 1e3))
    with tempfile.TemporaryDirectory() as scratch:
        names = [f"new-{number}" for number in range(effort.commands)]
        left = iter(names)
        folder = Path(scratch)
        first = median_of(effort.commands, lambda: stand.publish_copy(folder, "small", next(left)))
    for name in names:  # else they would end by themselves a minute later, while something else is measured
        stand.stop(name)
    yield Row("`fildes publish` of a small program, loaded, confined and started", ms(first * 1e3))
    again = median_of(effort.commands, lambda: stand.publish(APPS / "small"))
    yield Row("`fildes publish` of what is published already", ms(again * 1e3))


def _up() -> float:
    with Node() as node:
        return node.start_seconds


def _command(stand: Stand, *words: str) -> float:
    began = time.monotonic()
    stand.node.fildes(*words)
    return time.monotonic() - began
