"""Thousands of idle connections to one instance: what each costs, and what they cost those that are busy."""

from __future__ import annotations

import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import proc
from bench.load import wrk
from bench.rows import Row, ms, size
from bench.stand import Effort, Stand, request

_SPARE = 1000  # descriptors of every process that are for something else


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield from _measure(stand, min(effort.idle, hard - _SPARE), effort)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _measure(stand: Stand, count: int, effort: Effort) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        stand.publish_copy(Path(scratch), "small", "crowd", f"\n[limits]\nconnections = {2 * count}\n")

    def load() -> float:
        """p99 in ms, the best of all rounds."""
        best = float("inf")
        for _ in range(max(2, effort.rounds)):
            busy = wrk(stand.url, host="crowd.localhost", seconds=effort.seconds)
            if busy.errors:
                raise RuntimeError(f"{busy.errors} errors among {count} idle connections")
            best = min(best, busy.p99)
        return best

    load()  # what grows with use has grown before it is measured
    instance, door = stand.running("crowd").instance, stand.node.daemons()["web"]
    alone = load()
    before = proc.private(instance), proc.private(door)
    socks: list[socket.socket] = []
    try:
        began = time.monotonic()
        for _ in range(count):
            sock = stand.connect()
            socks.append(sock)
            sock.sendall(request("crowd"))
            if not sock.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"connection {len(socks)} of {count} got no 200")
        opened = time.monotonic() - began
        each = (proc.private(instance) - before[0]) / count, (proc.private(door) - before[1]) / count
        among = load()
        if stand.running("crowd").instance != instance:
            raise RuntimeError("the instance that held the idle connections ended")
    finally:
        for sock in socks:
            sock.close()
    stand.stop("crowd")
    yield Row(
        f"{count:,} idle keep-alive connections: memory of each in the instance, and in the door",
        f"{size(each[0])}, {size(max(each[1], 0))} ({count / opened:,.0f}/s to open)",
        goal="≤ 1 KiB",
        met=sum(each) <= 1024,
    )
    yield Row(
        "— p99 of 64 busy connections among them",
        ms(among),
        f"{ms(alone)} without them",
        f"unchanged (is {among / alone:.2f}×)",
        among <= alone * 1.1,
    )
