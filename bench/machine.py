"""What was measured on: enough to compare with another machine, nothing that tells whose it is."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def describe(busy: float) -> str:
    """A paragraph of Markdown; `busy` is the load average from before the first measurement."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = [f"{name} {metadata.version(name)}" for name in ("uvicorn", "granian", "fastapi", "uvloop", "httptools")]
    if nginx := _nginx():
        versions.append(f"nginx {nginx}")
    return (
        f"Measured on {datetime.date.today():%-d %B %Y}: {_cpu()}, {len(os.sched_getaffinity(0))} cores, "
        f"{memory:.0f} GiB of memory, Linux {platform.release().partition('-')[0]} ({platform.machine()}), "
        f"CPython {platform.python_version()}, as {'root' if os.geteuid() == 0 else 'an ordinary user'}; "
        f"{', '.join(versions)}. Load average {busy:.1f} when it began, {os.getloadavg()[0]:.1f} when it ended."
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _nginx() -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    try:
        done = subprocess.run(
            ["nginx", "-v"], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stderr.rpartition("/")[2].split()[0] if "/" in done.stderr else ""
