"""Ten thousand services that sleep: what they cost each daemon, and whoever does not sleep."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import proc
from bench.rows import Row, ms, size
from bench.stand import APPS, Effort, Stand
from fildes.testing.many import copies
from fildes.testing.node import Node

_FEW = 10


def rows(_: Stand, effort: Effort) -> Iterator[Row]:
    """On nodes of their own, one after the other: the same node before, and with them."""
    with tempfile.TemporaryDirectory(prefix="fildes-bench-") as above:
        state = Path(above) / "state"
        with Node(state) as node:
            node.fildes("publish", str(APPS / "small"))
        first = copies(state, "small", _FEW)
        with Stand(Node(state)) as stand:
            few, few_ps, few_starts = _look(stand, effort)
        with Node(state) as node:
            for name in first:
                node.fildes("rm", name)
        copies(state, "small", effort.asleep)
        with Stand(Node(state)) as stand:
            many, many_ps, many_starts = _look(stand, effort)
    number = f"{effort.asleep:,}"
    each = {name: (many[name] - few[name]) / (effort.asleep - _FEW) for name in many}
    worst = ", ".join(f"{name} {size(cost)}" for name, cost in sorted(each.items(), key=lambda item: -item[1])[:4])
    most = max(each.values())
    yield Row(
        f"{number} services asleep: private memory of a daemon for each ({worst})",
        size(most),
        goal="≤ 1 KiB",
        met=most <= 1024,
    )
    yield Row(
        f"`fildes ps small`, {number} asleep",
        ms(many_ps * 1e3),
        f"{_FEW}: {ms(few_ps * 1e3)}",
        "≤ 150 ms",
        many_ps <= 0.15,
    )
    yield Row(f"a small program from zero, p50, {number} asleep", ms(many_starts), f"{_FEW}: {ms(few_starts)}")


def _look(stand: Stand, effort: Effort) -> tuple[dict[str, int], float, float]:
    time.sleep(1)
    held = {name: proc.private(pid) for name, pid in stand.node.daemons().items()}
    took = []
    for _ in range(effort.commands):
        began = time.monotonic()
        stand.node.fildes("ps", "small")
        took.append(time.monotonic() - began)
    starts = []
    for _ in range(effort.starts):
        stand.stop("small")
        time.sleep(0.05)
        starts.append(stand.get("small").ms)
    return held, statistics.median(took), statistics.median(starts)
