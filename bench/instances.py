"""Instances beyond the first: what a spare saves, and how soon a crowd is met."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, ms, percentile
from bench.stand import Effort, Stand
from fildes.testing import eventually


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        for app, label in (("small", "small ASGI"), ("fast", "FastAPI")):
            name = f"spare-{app}"
            stand.publish_copy(Path(scratch), app, name, '\nhealth = "/"\n[limits]\nspares = 1\n')
            took = sorted(_from_a_spare(stand, name) for _ in range(effort.starts))
            middle = statistics.median(took)
            yield Row(
                f"{label}: the first request to a spare, p50, p99",
                f"{ms(middle)}, {ms(percentile(took, 0.99))}",
                goal="≤ 0.5 ms",
                met=middle <= 0.5,
            )
            stand.stop(name)


def _from_a_spare(stand: Stand, name: str) -> float:
    """Milliseconds; the spare has answered nobody yet."""
    stand.stop(name)
    stand.start(name)
    eventually(lambda: "ready" in stand.timeline(name), what="a spare")
    time.sleep(0.02)  # until nobody is busy with its start
    return stand.get(name).ms
