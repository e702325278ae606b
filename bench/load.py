"""Load on loopback by wrk, and the CPU that servers spent under it. Every run is bounded in time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.stand import Missing

TICK = os.sysconf("SC_CLK_TCK")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw; latencies in ms."""

    requests: int
    per_second: float
    p50: float
    p99: float
    errors: int
    cpu: float  # seconds that the servers spent, user and system

    @property
    def cpu_per_request(self) -> float:
        """µs"""
        return self.cpu / self.requests * 1e6 if self.requests else float("inf")


def cpu_of(pids: Iterable[int]) -> float:
    """User and system seconds of these processes so far, threads and reaped children included."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICK


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                pids += family(int(child))
    except FileNotFoundError:
        pass
    return pids


def wrk(
    url: str,
    *servers: int,
    host: str | None = None,
    close: bool = False,
    connections: int = 64,
    seconds: float = 3,
) -> Load:
    """Two threads of load for `seconds`; `servers` are the pids whose families are charged. Raises Missing."""
    if shutil.which("wrk") is None:
        raise Missing("wrk is not installed; on Debian: apt-get install wrk")
    command = ["wrk", "-t2", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    if host:
        command += ["-H", f"Host: {host}"]
    if close:
        command += ["-H", "Connection: close"]
    before = sum(cpu_of(family(server)) for server in servers)
    text = subprocess.run([*command, url], capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    after = sum(cpu_of(family(server)) for server in servers)
    found = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not found or not rate:
        raise RuntimeError(f"wrk said nothing that can be read:\n{text}")
    bad = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", text))
    bad += sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    return Load(int(found[1]), float(rate[1]), _latency(text, 50), _latency(text, 99), bad, after - before)


def _latency(text: str, percentile: int) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", text)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")
