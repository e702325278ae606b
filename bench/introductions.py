"""What asking the bus costs, and what it costs no more afterwards: an introduced stream beside a raw socketpair.

The bus and the shared driver run as real daemons under their filters; the test's own process is everybody else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.rows import Row, percentile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernel" / "bus"))

_ROUNDS = 4000
_OPENS = 150  # of each sort: fewer than a channel's burst


def rows() -> list[Row]:
    from stage import Stage, rights  # type: ignore[import-not-found]  # the bus's tests, found by the path above

    from fildes.sdk.errors import Denied
    from fildes.wire.catalogue import Grant

    db, clock = Grant("db", "connect", "ledger"), Grant("clock", "clock")
    stage = Stage()
    try:
        stage.publish(rights("shop", db, clock), rights("ledger", offers=["shop"]))
        stage.daemon("shared", "fildes.drivers.shared.__main__").start()
        stage.start_bus(("catalogue", "orchestrator", "debug", "log"))
        shop = stage.program("shop", [db, clock])
        stage.call(lambda: shop.open("db")).close()
        stage.introduced("r-ledger")[1].close()

        def one_open() -> None:
            shop.open("db").close()
            stage.introduced("r-ledger")[1].close()

        def one_driver() -> None:
            _, fds = shop.channel.ask("open", {"name": "clock"})
            for fd in fds:
                os.close(fd)

        def one_refusal() -> None:
            with contextlib.suppress(Denied):
                shop.open("nothing")

        # From here on the bus needs nobody but the driver: this loop stands still, and does not disturb.
        timed = [
            Row(f"open a {what}, p50 / p99", _us(_times(call, _OPENS)), "", "", None)
            for what, call in (
                ("connection to another service", one_open),
                ("clock, by its driver", one_driver),
                ("thing that was not granted: refused", one_refusal),
            )
        ]
        ours = shop.open("db")
        theirs = stage.introduced("r-ledger")[1]
        one, other = socket.socketpair()
        with ours, one, theirs:
            # On one core, since which core an echo woke up on is the larger part of a round trip between two; and in
            # turns, so that what else the machine does falls on both.
            cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(cores)})
            echoes = [_echo(other.fileno()), _echo(theirs.fileno())]
            try:
                raw, introduced = [], []
                for _ in range(20):
                    raw += _times(lambda: _ping(one), _ROUNDS // 20)
                    introduced += _times(lambda: _ping(ours), _ROUNDS // 20)
            finally:
                os.sched_setaffinity(0, cores)
                for pid in echoes:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                other.close()
        ratio = percentile(introduced, 0.5) / percentile(raw, 0.5)
        return [
            Row(
                "round trip between introduced services, 64 bytes, one core, p50 / p99",
                _us(introduced),
                f"{_us(raw)} raw socketpair",
                f"≤ 1.1×: {ratio:.2f}×",
                ratio <= 1.1,
            ),
            *timed,
        ]
    finally:
        stage.close()


def _us(times: list[float]) -> str:
    return f"{percentile(times, 0.5) * 1e6:.0f} / {percentile(times, 0.99) * 1e6:.0f} µs"


def _times(call: Callable[[], None], count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _ping(sock: socket.socket) -> None:
    sock.send(b"x" * 64)
    sock.recv(64)


def _echo(end: int) -> int:
    """A process that sends back what comes."""
    pid = os.fork()
    if pid == 0:
        try:
            while data := os.read(end, 64):
                os.write(end, data)
        finally:
            os._exit(0)
    return pid


if __name__ == "__main__":
    from bench.rows import table

    print(table(rows()))
