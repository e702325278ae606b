"""What is held and done while nothing happens: memory of instances and of all daemons, wake-ups."""

from __future__ import annotations

import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator

from bench import peers, proc
from bench.rows import Row, size
from bench.stand import Effort, Stand

_SETTLE = 0.2  # seconds after an answer


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    for app, label in (("small", "small ASGI"), ("fast", "FastAPI")):
        goal = (1.2 if sys.version_info >= (3, 12) else 2.5) if app == "fast" else None
        yield _instance(stand, app, label, goal, effort.looks)
    for app in ("small", "fast"):
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


def _instance(stand: Stand, app: str, label: str, goal: float | None, looks: int) -> Row:
    deltas = []
    for _ in range(looks):
        stand.get(app)
        group = proc.cgroup(stand.running(app).zygote)
        stand.stop(app)
        time.sleep(_SETTLE)
        before = proc.usage(group)
        stand.get(app)
        time.sleep(_SETTLE)
        after = proc.usage(group)
        if before is not None and after is not None:
            deltas.append(after - before)
    instance = stand.running(app).instance
    private = proc.private(instance)
    with peers.uvicorn(app) as (url, [pid]):
        with urllib.request.urlopen(url, timeout=10) as answer:
            answer.read()
        alone = proc.private(pid)
    own = f"{size(private)} in the process"
    delta = statistics.median(deltas) if deltas else None
    return Row(
        f"memory of an idle {label} instance after one request, beyond its zygote",
        f"{size(delta)} by its cgroup, {own}" if delta is not None else own,
        f"uvicorn exec'd {size(alone)} private",
        f"≤ {goal:g} MB" if goal else "",
        (delta if delta is not None else private) <= goal * 1e6 if goal else None,
    )


def _quiet(pids: list[int]) -> None:
    """Wait until what was just asked of the node has settled; at most 15 s, then it is counted as it is."""
    deadline = time.monotonic() + 15
    last = -1
    while time.monotonic() < deadline and (now := proc.switches(pids)) != last:
        last = now
        time.sleep(2.2)  # a stop is looked after for two seconds
