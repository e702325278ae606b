"""What `fildes up` becomes: prepares what only the outside can give, starts init, passes on signals, checks the end.

It holds the lock, the user's terminal, and one end of the lifeline: if it is killed, init closes the node in order.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from fildes import __version__
from fildes.init import bytecode, doors, table, tidy, world
from fildes.init.boxes import SERVICES, Boxes
from fildes.init.ground import Ground, cgroup_name, write
from fildes.init.ledger import Ledger
from fildes.kernel import process
from fildes.kernel.fds import Fd, close_all, seqpacket_pair
from fildes.kernel.loop import EPOLLIN, Loop

PATIENCE: Final = 4.0  # seconds that init has for closing; it takes at most three
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Wanted(NamedTuple):
    """What the command line says. `settings` go to every daemon."""

    state: str
    http: Sequence[str]
    table: str = table.NAME
    ready_fd: int | None = None
    settings: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default; never changed)


def run(wanted: Wanted) -> int:
    """A node, from nothing to nothing; the exit status. Raises Trouble before anything is started."""
    daemons = table.load(wanted.table)
    ground = Ground.take(wanted.state)
    fds: dict[str, Fd] = {"state": ground.directory, "lock": ground.lock}
    boxes = None
    try:
        uid_base = world.own_uids()
        if uid_base is not None:
            bytecode.refresh(_package())
        addresses = _open_doors(wanted.http, fds)
        _open_directories(daemons, ground, uid_base, fds)
        _set_limits()
        name = cgroup_name(os.fstat(ground.directory.fileno()))
        boxes = Boxes.make(name, [daemon.name for daemon in daemons])
        settings = {
            "root": uid_base is not None,
            "uid_base": uid_base or 0,
            "operator": os.getuid(),
            "state": ground.path,
            "http": addresses,
            "python": sys.executable,
            "version": __version__,
            "cgroup": f"{name}/{SERVICES}" if boxes else None,
            **wanted.settings,
        }
        write(ground.directory.fileno(), tidy.HTTP, "".join(f"{address}\n" for address in addresses), 0o644)
        ledger = Ledger(wanted.table, _path(), settings, uid_base, {}, name if boxes else None)
        return Keeper(ledger, fds, addresses, wanted.ready_fd).run()
    finally:
        tidy.state(ground.directory.fileno())
        if boxes:
            _remove(boxes)
        close_all(list(fds.values()))


class Keeper:
    def __init__(self, ledger: Ledger, fds: dict[str, Fd], addresses: list[str], ready_fd: int | None) -> None:
        self._loop = Loop()
        self._addresses, self._ready_fd = addresses, ready_fd
        self._terminal = _has_terminal()
        self._stopping = False
        self._status = 1
        process.set_child_subreaper()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # init is born with them blocked, and so misses none
        self._lifeline, theirs = seqpacket_pair()
        self._output, output = world.start_pipe()
        numbers = {name: fd.fileno() for name, fd in fds.items()} | {"lifeline": theirs.fileno()}
        try:
            self._init = world.launch(ledger._replace(fds=numbers), output.fileno())
        finally:
            close_all((theirs, output))
            self._relay()
        self._pid = process.pidfd_pid(self._init.fileno())

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
        if not os.read(self._lifeline.fileno(), 64):
            self._loop.unwatch(self._lifeline.fileno())  # init has ended; SIGCHLD says how
            return
        print("\n".join(f"serving on http://{address}" for address in self._addresses), flush=True)
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"R")
            os.close(self._ready_fd)
            self._ready_fd = None

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP and not (self._terminal and not _has_terminal()):
            process.pidfd_send_signal(self._init.fileno(), signal.SIGHUP)
        elif self._stopping and number == signal.SIGINT:
            process.pidfd_send_signal(self._init.fileno(), signal.SIGKILL)
        elif not self._stopping:
            self._stopping = True
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
        """Pass on what init and the daemons print."""
        with contextlib.suppress(BlockingIOError):
            while text := os.read(self._output.fileno(), 65536):
                with contextlib.suppress(OSError):  # whoever read it is gone; the node goes on
                    os.write(2, text)
            self._loop.unwatch(self._output.fileno())


def _open_doors(http: Sequence[str], fds: dict[str, Fd]) -> list[str]:
    addresses = []
    for number, text in enumerate(http):
        fds[f"http{number}"], address = doors.open_http(text)
        addresses.append(address)
    fds["control"] = doors.open_control(fds["state"].fileno())
    return addresses


def _open_directories(
    daemons: Sequence[table.Daemon], ground: Ground, uid_base: int | None, fds: dict[str, Fd]
) -> None:
    for daemon in daemons:
        if daemon.directory:
            owner = None if uid_base is None else 0 if daemon.uid is None else uid_base + daemon.uid
            fds[f"dir.{daemon.name}"] = ground.subdirectory(daemon.directory[1], owner)


def _set_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _path() -> list[str]:
    """sys.path for init and the daemons: Fildes first, and not the place that this command happened to be run from."""
    package = os.path.dirname(_package())
    rest = sys.path if sys.flags.safe_path else sys.path[1:]
    return [package, *(os.path.abspath(entry) for entry in rest if entry and entry != package)]


def _package() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _remove(boxes: Boxes) -> None:
    try:
        boxes.remove()
    except OSError as error:
        print(f"fildes: a cgroup of the node stays: {error}", file=sys.stderr)
