"""From nothing running to the first byte of an answer: one, and a hundred at the same moment; and a peer exec'd."""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bench import proc
from bench.rows import Row, ms, percentile, size
from bench.stand import APPS, Effort, Stand, Start, request

_PAUSE = 0.06  # seconds until the orchestrator has the next instance's descriptors ready, with room
_PHASES = ("wanted", "ordered", "up", "ready")
_BARE = """
import socket
sock = socket.socket(fileno=0).accept()[0]
sock.recv(65536)
sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nhello\\n")
"""


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    for app, label, middle, worst in (("small", "small ASGI program", 1.5, 5.0), ("fast", "FastAPI program", 2.0, 4.0)):
        starts = [_from_zero(stand, app) for _ in range(effort.starts)]
        took = [start.ms for start in starts]
        p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
        peers = {"uvicorn": [_execd(_uvicorn, app) for _ in range(effort.execs)]}
        if app == "small":
            peers["a bare `python -c`"] = [_execd(_bare, app) for _ in range(effort.execs)]
        yield Row(
            f"zero → first byte, {label}, p50 / p99 of {len(took)}",
            f"{p50:.2f} / {p99:.2f} ms",
            ", ".join(f"{name} exec'd {ms(statistics.median(times))}" for name, times in peers.items()),
            f"≤ {middle:g} / {worst:g} ms",
            p50 <= middle and p99 <= worst,
        )
        yield Row("— when, since the connect (medians)", _phases(starts))
        parts = {name: statistics.median(start.cpu[name] for start in starts) for name in starts[0].cpu}
        spent = ", ".join(f"{name} {used:.2f}" for name, used in parts.items())
        yield Row("— CPU spent on it (medians)", f"{sum(parts.values()):.2f} ms: {spent}")


def _from_zero(stand: Stand, service: str) -> Start:
    zygote = stand.zygote(service)
    stand.stop(service)
    time.sleep(_PAUSE)
    daemons = stand.node.daemons()
    took_part = {"door": daemons["web"], "orchestrator": daemons["orchestrator"], "zygote": zygote}
    before = {name: proc.ran(pid) for name, pid in took_part.items()}
    start = stand.get(service)
    cpu = {name: proc.ran(pid) - before[name] for name, pid in took_part.items()}
    cpu["instance"] = proc.ran(stand.running(service).instance)
    return replace(start, timeline=stand.timeline(service), cpu=cpu)


def _phases(starts: Sequence[Start]) -> str:
    points = []
    for phase in _PHASES:
        times = [(start.timeline[phase] - start.connected) * 1e3 for start in starts if phase in start.timeline]
        if times:
            points.append((statistics.median(times), phase))
    points.append((statistics.median(start.ms for start in starts), "answer"))
    return ", ".join(f"{phase} {at:.2f}" for at, phase in sorted(points)) + " ms"


# — a peer, which inherits its listening socket, so that nothing has to be waited for but the answer —

_bare = [sys.executable, "-c", _BARE]
_uvicorn = [sys.executable, "-m", "uvicorn", "main:app", "--fd", "0", "--no-access-log", "--log-level", "error"]


def _execd(command: Sequence[str], app: str) -> float:
    """Milliseconds from the fork to the first byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        sock.settimeout(30)
        sock.sendall(request(app))
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=APPS / app, stdin=listener.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            head = sock.recv(65536)
            took = (time.monotonic() - began) * 1e3
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{' '.join(command)} answered {head[:80]!r}")
    return took


# — a hundred —


def hundred(stand: Stand, effort: Effort) -> Iterator[Row]:
    names = [f"one-of-{number}" for number in range(effort.many)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as publishers:
        list(publishers.map(lambda name: stand.publish_copy(Path(scratch), "small", name), names))
    took: list[float] = []
    memory: list[int] = []
    group = proc.cgroup(stand.zygote(names[0]))
    services = group.parent if group is not None else None
    for _ in range(effort.waves):
        for name in names:
            stand.stop(name)
        time.sleep(0.3)
        before = proc.usage(services)
        took.append(_wave(stand, names))
        after = proc.usage(services)
        if before is not None and after is not None:
            memory.append(after - before)
    middle = statistics.median(took)
    yield Row(
        f"{len(names)} asleep, a request to each at once, until all have answered (median, best of {len(took)})",
        f"{ms(middle)}, {ms(min(took))}",
        goal="100: ≤ 150 ms",
        met=middle <= 150 if len(names) == 100 else None,
    )
    if memory:
        yield Row(
            "— memory that each took more for it, kernel's share included (a process of each had waited)",
            size(statistics.median(memory) / len(names)),
        )


def _wave(stand: Stand, names: Sequence[str]) -> float:
    """Milliseconds."""
    poll = select.epoll()
    socks: dict[int, socket.socket] = {}
    began = time.monotonic()
    try:
        for name in names:
            sock = stand.connect()
            socks[sock.fileno()] = sock
            sock.sendall(request(name))
            poll.register(sock, select.EPOLLIN)
        left = set(socks)
        while left:
            events = poll.poll(15)
            if not events:
                raise RuntimeError(f"{len(left)} of {len(names)} services did not answer within 15 s")
            for number, _ in events:
                head = socks[number].recv(65536)
                if not head.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"one of a hundred answered {head[:80]!r}")
                poll.unregister(number)
                left.discard(number)
        return (time.monotonic() - began) * 1e3
    finally:
        for sock in socks.values():
            sock.close()
        poll.close()
