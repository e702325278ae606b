"""A release's processes stand still, and go on.

By the freezer of its cgroup, which holds all of them and whatever they fork. Without that by SIGSTOP: an instance
can't fork, and a zygote forks on order only. Neither can be seen or undone from inside.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable

from fildes.orchestrator.instances import Instance
from fildes.orchestrator.zygotes import Zygote


def freeze(zygote: Zygote | None, crew: Iterable[Instance]) -> None:
    """Raises OSError."""
    if zygote is None:
        return  # there are no processes
    if zygote.cgroup is not None and zygote.cgroup.freezes:
        zygote.cgroup.freeze()
    else:
        _signal(zygote, crew, signal.SIGSTOP)


def thaw(zygote: Zygote | None, crew: Iterable[Instance]) -> None:
    if zygote is None:
        return
    if zygote.cgroup is not None and zygote.cgroup.freezes:
        with contextlib.suppress(FileNotFoundError):
            zygote.cgroup.thaw()
    else:
        _signal(zygote, crew, signal.SIGCONT)


def _signal(zygote: Zygote, crew: Iterable[Instance], number: signal.Signals) -> None:
    zygote.signal(number)
    for instance in crew:
        instance.signal(number)
