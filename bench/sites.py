"""Static files, against nginx at its best setting for each size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench import peers
from bench.load import Load, wrk
from bench.peers import Served
from bench.rows import Row
from bench.stand import Effort, Stand

_SIZES = (1, 10, 100)  # KB


def rows(stand: Stand, effort: Effort) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "pages")
        folder.mkdir()
        (folder / "index.html").write_text("<!doctype html><title>files of some sizes</title>")
        # With all its features on: compressed kinds, headers and redirects of its own.
        (folder / "_headers").write_text("/*\n  X-Content-Type-Options: nosniff\n")
        (folder / "_redirects").write_text("/old/* /:splat\n/* /index.html 404\n")
        for size in _SIZES:
            (folder / f"{size}.txt").write_text("x" * (size * 1000))
        stand.node.fildes("publish", str(folder), "--name", "pages")
        best = _best(stand, folder, effort)
    for size in _SIZES:
        ours = best["fildes", size]
        name, load = max(
            ((name, load) for (name, of), load in best.items() if of == size and name != "fildes"),
            key=lambda entry: entry[1].per_second,
        )
        ratio = ours.per_second / load.per_second
        yield Row(
            f"static file of {size} KB, keep-alive",
            f"{ours.per_second:,.0f}/s, {ours.cpu_per_request:.1f} µs CPU",
            f"{name} {load.per_second:,.0f}/s, {load.cpu_per_request:.1f} µs CPU",
            f"≥ 1.0× (is {ratio:.2f}×)" if size > 1 else f"(is {ratio:.2f}×)",
            ratio >= 1.0 if size > 1 else None,
        )


def _best(stand: Stand, folder: Path, effort: Effort) -> dict[tuple[str, int], Load]:
    @contextmanager
    def ours() -> Iterator[Served]:
        yield Served(stand.url, (stand.node.pid,))

    servers: dict[str, Callable[[], AbstractContextManager[Served]]] = {
        "fildes": ours,
        "nginx (sendfile)": lambda: peers.nginx_static(folder, sendfile=True),
        "nginx (read, write)": lambda: peers.nginx_static(folder, sendfile=False),
    }
    best: dict[tuple[str, int], Load] = {}
    for _ in range(effort.rounds):
        for name, serve in servers.items():
            with serve() as served:
                for size in _SIZES:
                    url = f"{served.url}{size}.txt"
                    load = wrk(url, *served.pids, host="pages.localhost", seconds=effort.seconds / 2)
                    if load.errors:
                        raise RuntimeError(f"{name}: {load.errors} errors under load")
                    if (name, size) not in best or load.per_second > best[name, size].per_second:
                        best[name, size] = load
    return best
