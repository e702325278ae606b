"""Ten thousand services: snapshots, deltas and a publish stay small and quick. The figures are printed (-s)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from fildes import manifest
from fildes.kernel import memfd
from fildes.wire import catalogue as wire

sys.path.insert(0, str(Path(__file__).parent))

from catalogue_bench import Bench, app

MANY = 10_000
# A multiple of what an idle machine takes: a slow one must not fail, a table scan for each row must.
PATIENCE = float(os.environ.get("FILDES_PATIENCE", "8"))


def _populate(bench: Bench) -> None:
    bench.db._db.execute("PRAGMA synchronous = OFF")
    template = manifest.read(
        app("n", more='[grants.clock]\n[grants.db]\nkind = "connect"\nto = "x:1"\n[env]\nA = "b"\n').encode()
    )
    for n in range(MANY):
        one = manifest.Manifest(
            f"n{n}", "asgi", "m:app", [f"n{n}.localhost"], template.env, template.grants, lines=template.lines
        )
        id, bundle = f"{n:012x}", f"{n:064x}"
        stored = bench.db.add_candidate(id, "anna", one, 0.0, bundle, 1, "f" * 64, 1, abi="py")
        bench.db.switch(stored, 0.0, 5)
    bench.db._db.execute("PRAGMA synchronous = FULL")


@pytest.mark.slow
def test_ten_thousand_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {}
    with Bench(tmp_path / "state") as bench:
        _populate(bench)
        for audience in wire.AUDIENCES:
            start = time.perf_counter()
            _, (fd,) = bench.ask(audience, "subscribe", wire.Subscribe(), reply=wire.Snapshot)
            took = time.perf_counter() - start
            with fd:
                size = len(memfd.read_sealed(fd.fileno()))
            figures[f"snapshot for {audience}"] = f"{size / 1e6:.2f} MB in {took * 1e3:.0f} ms"
            assert took < 0.12 * PATIENCE
        laps = []
        for n in range(20):
            start = time.perf_counter()
            bench.publish(app("n500"), bundle=b"%d" % n)
            laps.append(time.perf_counter() - start)
        laps.sort()
        figures["publish (small, no warming)"] = f"p50 {laps[10] * 1e3:.1f} ms, most {laps[-1] * 1e3:.1f} ms"
        assert laps[10] < 0.05 * PATIENCE
        start = time.perf_counter()
        assert bench.publish(app("n500"), bundle=b"19").unchanged
        figures["publish, unchanged"] = f"{(time.perf_counter() - start) * 1e3:.1f} ms"
        start = time.perf_counter()
        _, (fd,) = bench.ask("debug", "services", wire.Services(), reply=wire.ServiceCount)
        figures["services"] = f"{(time.perf_counter() - start) * 1e3:.0f} ms"
        fd.close()
    start = time.perf_counter()
    with Bench(tmp_path / "state"):
        took = time.perf_counter() - start
        figures["start"] = f"{took * 1e3:.0f} ms"
        assert took < 0.1 * PATIENCE
    figures["database"] = f"{(tmp_path / 'state' / 'catalogue.db').stat().st_size / 1e6:.1f} MB"
    with capsys.disabled():
        print()
        for name, figure in figures.items():
            print(f"  {name}: {figure}")
