"""What is held and done while nothing happens: memory of instances and of all daemons, wake-ups."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bench import peers, proc
from bench.rows import Row, size
from bench.stand import Effort, Stand

_SETTLE = 0.5  # seconds after an answer; what the next one starts with is put together after a quarter


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    for app, label in (("small", "small ASGI"), ("fast", "FastAPI")):
        goal = (1.2 if sys.version_info >= (3, 12) else 2.5) if app == "fast" else None
        yield from _instance(stand, app, label, goal, effort.looks)
    for app in ("small", "fast", "threads"):
        stand.stop(app)
    names = {"up": stand.node.pid, "init": stand.node.init, **stand.node.daemons()}
    pids = list(names.values())
    total = proc.pss(pids)
    yield Row(
        f"memory of the node itself, idle: {len(pids)} processes (sum of PSS)",
        size(total),
        goal="≤ 100 MiB",
        met=total <= 100 << 20,
    )
    _quiet(pids)
    before = {name: proc.switches([pid]) for name, pid in names.items()}
    time.sleep(effort.calm)
    woken = {name: proc.switches([pid]) - before[name] for name, pid in names.items()}
    who = ", ".join(f"{name} {count}" for name, count in woken.items() if count)
    total = sum(woken.values())
    yield Row(
        f"wake-ups of all of them in {effort.calm:g} s, idle", f"{total}: {who}" if who else "0", "", "0", total == 0
    )


def _instance(stand: Stand, app: str, label: str, goal: float | None, looks: int) -> Iterator[Row]:
    """All that the kernel charges to the release's cgroup for one instance more, its own share included: page tables,
    stacks, descriptors. It may have two, so that a process waits to be the next one before and after, and is no part
    of the difference.
    """
    name = f"idle-{app}"
    with tempfile.TemporaryDirectory() as scratch:
        stand.publish_copy(Path(scratch), app, name, "\n[limits]\ninstances = 2\n")
    deltas, waiting = [], []
    stand.get(name)
    group = proc.cgroup(stand.zygote(name))
    for _ in range(looks):
        stand.stop(name)
        time.sleep(_SETTLE)
        before = proc.usage(group)
        stand.get(name)
        time.sleep(0.02)  # until it has answered, and nobody has begun to wait again
        between = proc.usage(group)
        time.sleep(_SETTLE)
        after = proc.usage(group)
        if before is not None and between is not None and after is not None:
            deltas.append(after - before)
            waiting.append(after - between)
    private = proc.private(stand.running(name).instance)
    stand.stop(name)
    with peers.uvicorn(app) as (url, [pid]):
        with urllib.request.urlopen(url, timeout=10) as answer:
            answer.read()
        alone = proc.private(pid)
    own = f"{size(private)} in the process"
    delta = statistics.median(deltas) if deltas else None
    yield Row(
        f"memory of an idle {label} instance after one request, beyond its zygote",
        f"{size(delta)} by its cgroup, {own}" if delta is not None else own,
        f"uvicorn exec'd {size(alone)} private",
        f"≤ {goal:g} MB" if goal else "",
        (delta if delta is not None else private) <= goal * 1e6 if goal else None,
    )
    if waiting:
        yield Row("— of a process that waits to be the next one", size(statistics.median(waiting)))


def _quiet(pids: list[int]) -> None:
    """Wait until what was just asked of the node has settled: until nobody woke for longer than the last thing that a
    change leads to takes (the door renews what a successor of it would find, 30 s after); 80 s at the most."""
    deadline = time.monotonic() + 80
    last, since = -1, time.monotonic()
    while time.monotonic() < min(deadline, since + 31):
        now = proc.switches(pids)
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(1)
