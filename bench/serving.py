"""Requests a second and CPU a request: an instance behind our door, and the usual servers, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench import peers
from bench.load import Load, wrk
from bench.peers import Served
from bench.rows import Row
from bench.stand import Effort, Stand

Best = dict[str, Load]  # by server
WORKERS = ("sync", "gthread", "gevent")
Serve = Callable[[], AbstractContextManager[Served]]


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    for app, label in (("small", "bare ASGI"), ("fast", "FastAPI")):
        keep, once = measure(stand, app, effort, _asgi_peers(app))
        yield from _rows(label, keep, once, goal=1.0 if app == "fast" else 1.3)
    keep, once = measure(stand, "threads", effort, _wsgi_peers("threads"))
    yield from _rows_of_wsgi(keep, once)


def _asgi_peers(app: str) -> dict[str, Serve]:
    return {
        "granian": lambda: peers.granian(app),
        "uvicorn": lambda: peers.uvicorn(app),
        "nginx → uvicorn": lambda: peers.nginx_to_uvicorn(app),
    }


def _wsgi_peers(app: str) -> dict[str, Serve]:
    return {f"gunicorn {worker}": functools.partial(peers.gunicorn, app, worker) for worker in WORKERS}


def measure(stand: Stand, app: str, effort: Effort, others: dict[str, Serve]) -> tuple[Best, Best]:
    """Each server's best of all rounds: with kept connections, and with one request a connection."""

    @contextmanager
    def ours() -> Iterator[Served]:
        yield Served(stand.url, (stand.node.pid,))

    servers: dict[str, Serve] = {"fildes": ours} | others
    keep: Best = {}
    once: Best = {}
    for _ in range(effort.rounds):
        for name, serve in servers.items():
            with serve() as served:
                for best, close in ((keep, False), (once, True)):
                    load = wrk(served.url, *served.pids, host=f"{app}.localhost", close=close, seconds=effort.seconds)
                    if load.errors:
                        raise RuntimeError(f"{name}: {load.errors} errors under load")
                    if name not in best or load.per_second > best[name].per_second:
                        best[name] = load
    return keep, once


def _rows(label: str, keep: Best, once: Best, *, goal: float) -> Iterator[Row]:
    ratio = keep["fildes"].cpu_per_request / keep["granian"].cpu_per_request
    yield Row(
        f"{label}, keep-alive",
        _figures(keep["fildes"]),
        _others(keep),
        f"CPU ≤ 0.8× granian (is {ratio:.2f}×)",
        ratio <= 0.8,
    )
    ratio = once["fildes"].per_second / once["nginx → uvicorn"].per_second
    yield Row(
        f"{label}, one request a connection",
        _figures(once["fildes"]),
        _others(once),
        f"requests ≥ {goal}× nginx → uvicorn (is {ratio:.2f}×)",
        ratio >= goal,
    )


def _rows_of_wsgi(keep: Best, once: Best) -> Iterator[Row]:
    for how, loads in (("keep-alive", keep), ("one request a connection", once)):
        best = max(load.per_second for name, load in loads.items() if name != "fildes")
        ratio = loads["fildes"].per_second / best
        yield Row(
            f"bare WSGI, {how}",
            _figures(loads["fildes"]),
            _others(loads),
            f"requests ≥ 3× gunicorn's best worker (is {ratio:.2f}×)",
            ratio >= 3,
        )


def _figures(load: Load) -> str:
    return f"{load.per_second:,.0f}/s, {load.cpu_per_request:.1f} µs CPU"


def _others(loads: Best) -> str:
    return ", ".join(f"{name} {_figures(load)}" for name, load in loads.items() if name != "fildes")
