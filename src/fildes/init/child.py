"""One daemon of the table as init holds it, new or taken over from the image of init that was before this one."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence

from fildes.init import policy
from fildes.init.channel import Channel, Listing, Page, Pair, say
from fildes.init.deposits import Deposits
from fildes.init.ledger import Kept, Ledger, Line, Unsent
from fildes.init.table import Daemon
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop, Timer


class Child:
    """One daemon of the table as it is now."""

    def __init__(self, spec: Daemon, channel: Channel, line: Line) -> None:
        self.spec, self.channel = spec, channel
        self.pid, self.started, self.ready, self.restarts = line.pid, line.started, line.ready, line.restarts
        self.record = policy.Record(line.ends, line.pause)
        self.replaced = False  # its next end was asked for
        self.timer: Timer | None = None

    @property
    def state(self) -> str:
        return "ready" if self.ready else "starting" if self.pid else "down"

    def to_line(self) -> Line:
        """For the next image of init."""
        store, bus = self.channel.store, self.channel.bus
        return Line(
            store=(store.near.fileno(), store.far.fileno()),
            bus=(bus.near.fileno(), bus.far.fileno()),
            pid=self.pid,
            started=self.started,
            ready=self.ready,
            restarts=self.restarts,
            ends=self.record.ends,
            pause=self.record.pause,
            deposits=tuple(
                Kept(entry.serial, entry.key, entry.blob, [fd.fileno() for fd in entry.fds])
                for entry in self.channel.deposits
            ),
            outbox=tuple(
                Unsent("frame", out)
                if isinstance(out, bytes)
                else Unsent("page" if isinstance(out, Page) else "listing", b"", out.nonce, out.after, out.left)
                for out in self.channel.outbox
            ),
        )

    def signal(self, number: int) -> None:
        if self.pid:  # not reaped yet, so the pid is still its own
            os.kill(self.pid, number)


def adopt(loop: Loop, ledger: Ledger, table: Sequence[Daemon]) -> dict[str, Child]:
    """Every daemon of `table`, with what `ledger` says of it; what it says of others is ended."""
    # All quotas together have to fit into init's own limit, or the kernel would drop a deposit on arrival.
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 256
    share = min(1.0, room / sum(spec.deposited_fds for spec in table))
    children = {spec.name: _child(loop, spec, ledger.daemons.get(spec.name), share) for spec in table}
    for name in ledger.daemons.keys() - children.keys():
        _dismiss(name, ledger.daemons[name])
    return children


def _child(loop: Loop, spec: Daemon, line: Line | None, share: float) -> Child:
    deposits = Deposits(spec.deposits, int(spec.deposited_fds * share))
    if line is None:
        channel = Channel(loop, spec.name, Pair.make(), Pair.make(), deposits)
        return Child(spec, channel, Line((-1, -1), (-1, -1)))
    store, bus = (Pair(Fd(near), Fd(far)) for near, far in (line.store, line.bus))
    for kept in line.deposits:
        deposits.put(kept.key, kept.blob, [Fd(number) for number in kept.fds], serial=kept.serial)
    channel = Channel(loop, spec.name, store, bus, deposits)
    for kind, frame, *answer in line.outbox:
        channel.outbox.append(Page(*answer) if kind == "page" else Listing(*answer) if kind == "listing" else frame)
    return Child(spec, channel, line)


def _dismiss(name: str, line: Line) -> None:
    say(f"{name} is not a daemon of this version any more: ending it")
    if line.pid:
        os.kill(line.pid, signal.SIGKILL)  # our child, and not reaped yet
    for number in (*line.store, *line.bus, *(number for kept in line.deposits for number in kept.fds)):
        os.close(number)
