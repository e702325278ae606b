"""What a killed forerunner left in the fd store: taken up where its release is current, else brought to an end."""

from __future__ import annotations

import contextlib
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from fildes.daemon.store import Deposit, Store
from fildes.kernel import process
from fildes.kernel.fds import Fd, close_all, send_with_fds
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.orchestrator.conveyor import Conveyor
from fildes.orchestrator.instances import never_started
from fildes.orchestrator.loading import draining_key
from fildes.orchestrator.supervised import DRAIN, Supervised
from fildes.wire.catalogue import Release

_ORDER = ("draining", "conveyor", "loading", "zygote", "instance", "command")  # each needs what comes before it


def adopt(
    loop: Loop,
    store: Store,
    deposits: Sequence[Deposit],
    releases: Mapping[str, Release],
    of: Callable[[Release], Supervised],
) -> None:
    """Deposits are keyed "<what>.<release>[.<more>]"; `of` gives the Supervised of a current release."""
    found: dict[str, Supervised] = {}
    others: dict[str, list[Deposit]] = defaultdict(list)
    for deposit in sorted(deposits, key=lambda d: _ORDER.index(d.key.partition(".")[0])):
        what, _, rest = deposit.key.partition(".")
        release, _, more = rest.partition(".")
        if what == "draining":
            _end_at(loop, store, deposit, float(deposit.blob))
            continue
        if release not in releases or what == "loading":
            others[release].append(deposit)
            continue
        supervised = found.setdefault(release, of(releases[release]))
        if what == "conveyor":
            supervised.adopt_conveyor(deposit)
        elif what == "zygote":
            supervised.adopt_zygote(deposit, int(more))
        elif what == "command":
            supervised.adopt_command(deposit, more)
        else:
            supervised.adopt_instance(deposit, more)
    for left in others.values():
        _finish(loop, store, left)
    for supervised in found.values():
        supervised.resume()


def _finish(loop: Loop, store: Store, deposits: Sequence[Deposit]) -> None:
    """A candidate that nobody waits for, or a program that was loading and could not open another file now: it ends.

    A release that was draining goes on doing so: an instance of it may own connections.
    """
    draining = any(
        deposit.key.startswith("command.") or (deposit.key.startswith("instance.") and not _in_stock(deposit))
        for deposit in deposits
    )
    for deposit in deposits:
        what = deposit.key.partition(".")[0]
        if what == "conveyor":
            sending, receiving = deposit.fds
            Conveyor(loop, sending, receiving).hand_back()
        elif what == "instance":
            with contextlib.suppress(OSError):
                send_with_fds(deposit.fds[0].fileno(), b"D")
        elif what == "command":
            pass  # it has its time, or ends with its zygote
        elif what == "zygote" and draining:
            release = deposit.key.split(".")[1]
            deadline, pid = loop.time() + DRAIN, process.pidfd_pid(deposit.fds[0].fileno())
            later = Deposit(draining_key(release, pid), b"", deposit.fds)
            store.deposit(later.key, b"%.3f" % deadline, later.fds)
            store.drop(deposit.key)  # the place is a successor's from now on
            _end_at(loop, store, later, deadline)
            continue
        else:
            _kill(deposit.fds[0])
        close_all(deposit.fds)
        store.drop(deposit.key)


def _end_at(loop: Loop, store: Store, zygote: Deposit, deadline: float) -> None:
    """Its instances end when they have finished; the zygote, and what is left, when the time for that is over."""
    pidfd = zygote.fds[0]
    timer = loop.call_later(max(0.0, deadline - loop.time()), lambda: _kill(pidfd))

    def gone(_: int) -> None:
        timer.cancel()
        loop.unwatch(pidfd.fileno())
        close_all(zygote.fds)
        store.drop(zygote.key)

    loop.watch(pidfd.fileno(), EPOLLIN, gone)


def _in_stock(instance: Deposit) -> bool:
    return len(instance.fds) == 1 and never_started(instance.fds[0].fileno(), instance.blob)


def _kill(pidfd: Fd) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
