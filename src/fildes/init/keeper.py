"""What `fildes up` becomes once init runs: it passes on signals and what is printed, and checks the end.

It stays outside init's namespaces, holds the lock, the user's terminal, and one end of the lifeline: if it is killed,
init closes the node in order; if init is killed, it clears up after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from typing import Final, NamedTuple, NoReturn

from fildes.init import image, tidy
from fildes.init.image import inherited
from fildes.init.manager import READY, Manager
from fildes.kernel import memfd, process
from fildes.kernel.fds import close_all
from fildes.kernel.loop import EPOLLIN, Loop

PATIENCE: Final = 4.0  # seconds that init has for closing; it takes at most three
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Watch(NamedTuple):
    """What it is handed; descriptors by number, but for `pid`, which is init's."""

    pid: int
    init: int  # a pidfd
    lifeline: int
    output: int  # what init and the daemons print comes out here
    state: int
    lock: int
    ready: int  # -1: nobody asked
    cgroup: str | None
    addresses: list[str]
    manager: str = ""  # what NOTIFY_SOCKET said: manager.py


def execute(watch: Watch, state: str) -> NoReturn:
    """execve(2) of the keeper; `state` is for people who look at `ps`. Returns only by raising."""
    with memfd.sealed("fildes-keeper", json.dumps(watch).encode()) as sealed:
        kept = (watch.init, watch.lifeline, watch.output, watch.state, watch.lock, watch.ready, sealed.fileno())
        image.execute("up", [str(sealed.fileno()), "--state", state], {number for number in kept if number >= 0})


def main(arguments: list[str]) -> int:
    """The exit status of `fildes up`."""
    process.set_name("fildes-up")
    process.set_dumpable(False)
    with inherited(int(arguments[0])) as sealed:
        watch = Watch(*json.loads(memfd.read_sealed(sealed.fileno())))
    held = [inherited(number) for number in (watch.state, watch.lock)]
    try:
        return Keeper(watch).run()
    finally:
        tidy.state(watch.state)
        _remove(watch.cgroup)
        close_all(held)


class Keeper:
    def __init__(self, watch: Watch) -> None:
        self._loop = Loop()
        self._addresses = [f"serving on http://{address}" for address in watch.addresses]
        self._manager = Manager(watch.manager)
        self._pid = watch.pid
        self._init, self._lifeline, self._output = (
            inherited(number) for number in (watch.init, watch.lifeline, watch.output)
        )
        self._ready = inherited(watch.ready) if watch.ready >= 0 else None
        # SIGHUP by hand means an upgrade; from a terminal that is gone it means the end, unless nohup(1) was asked.
        self._terminal = _has_terminal()
        self._stays = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._stopping = False
        self._status = 1

    def run(self) -> int:
        """Until init has ended; the exit status."""
        loop = self._loop
        loop.watch(self._output.fileno(), EPOLLIN, lambda _: self._relay())
        loop.watch(self._lifeline.fileno(), EPOLLIN, lambda _: self._on_lifeline())
        loop.signals(SIGNALS, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._reap()
        loop.run()
        tidy.kill_the_rest()  # if init was killed where it had no namespace to take with it
        self._relay()
        loop.close()
        close_all((self._init, self._lifeline, self._output))
        return self._status

    def _on_lifeline(self) -> None:
        said = os.read(self._lifeline.fileno(), 64)
        if not said:
            self._loop.unwatch(self._lifeline.fileno())  # init has ended; SIGCHLD says how
            return
        if not self._stopping:
            self._manager.ready("; ".join(self._addresses))
        if said != READY:
            return
        with contextlib.suppress(OSError):  # nobody reads it
            print("\n".join(self._addresses), flush=True)
        if self._ready is not None:
            with self._ready, contextlib.suppress(BrokenPipeError):  # whoever asked has gone
                os.write(self._ready.fileno(), b"R")

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP and not (self._terminal and not _has_terminal()):
            if not self._stopping:
                self._manager.reloading()
            process.pidfd_send_signal(self._init.fileno(), signal.SIGHUP)
        elif number == signal.SIGHUP and self._stays:
            self._terminal = False
        elif self._stopping and number == signal.SIGINT:
            process.pidfd_send_signal(self._init.fileno(), signal.SIGKILL)
        elif not self._stopping:
            self._stopping = True
            self._manager.stopping()
            process.pidfd_send_signal(self._init.fileno(), signal.SIGTERM)
            self._loop.call_later(PATIENCE, self._lose_patience)

    def _lose_patience(self) -> None:
        print("fildes: init did not close the node in time; killing all of it", file=sys.stderr)
        process.pidfd_send_signal(self._init.fileno(), signal.SIGKILL)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._pid:
                    self._on_end(os.waitstatus_to_exitcode(ended[1]))

    def _on_end(self, code: int) -> None:
        self._status = code if code >= 0 else 1
        if code < 0:
            print(f"fildes: init was killed by signal {-code}: the node is gone", file=sys.stderr)
        self._loop.stop()

    def _relay(self) -> None:
        number = self._output.fileno()
        if not relay(number):
            return
        self._loop.unwatch(number)
        if not _takes_more(2):  # a stopped terminal: look again from time to time, and stay able to end meanwhile
            self._loop.call_later(0.2, lambda: self._loop.watch(number, EPOLLIN, lambda _: self._relay()))


def relay(output: int) -> bool:
    """Pass on what init and the daemons have printed; whether there is no more to be had now, or no room for it."""
    with contextlib.suppress(BlockingIOError):
        while _takes_more(2) and (text := os.read(output, 2048)):
            with contextlib.suppress(OSError):  # whoever read it is gone; the node goes on
                os.write(2, text)
        return True
    return False


def _takes_more(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(0))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _remove(cgroup: str | None) -> None:
    from fildes.init import boxes  # here: it is needed once, at the end

    try:
        boxes.remove(cgroup)
    except OSError as error:
        print(f"fildes: a cgroup of the node stays: {error}", file=sys.stderr)
