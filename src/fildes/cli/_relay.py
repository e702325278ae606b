"""Between the operator's own streams and a command's: bytes are copied, nothing of the operator's is handed over.

A program that held the operator's terminal could read what is typed later, and push words into it as if they were
typed (TIOCSTI). So it gets a terminal that is made for it (pty(7)), or pipes, and this process holds the other ends.
Bytes that come out are shown as they come: what steers a terminal is the program's to send, as with ssh.

That terminal controls no process. The keys that make signals are seen here on their way, and the orchestrator sends
the signal: whether they mean one, and which keys they are, the terminal's settings say (termios(3)).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Final

from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds
from fildes.wire import command as wire

ESCAPE: Final = 0x1D  # Ctrl-], three of them in a row: the command is ended, whatever it makes of its signals
_PIECE: Final = 65536
_PATIENCE: Final = 3.0  # seconds that a command has to end when we are told to
_LATE: Final = 0.5  # seconds for what is still in the streams when the command has ended
_KEYS: Final = {termios.VINTR: signal.SIGINT, termios.VQUIT: signal.SIGQUIT}


class Lost(Exception):
    """The other end of the lease closed without a word on how the command ended."""


class Streams:
    """The command's ends, to be sent away, and ours. `terminal`: of 0, 1 and 2 those that are a terminal here."""

    def __init__(self) -> None:
        self.terminal = [number for number in range(3) if _isatty(number)]
        self.theirs: list[Fd] = []
        self.master: Fd | None = None
        self.ours: dict[int, Fd] = {}  # the pipes' ends
        if self.terminal:
            master, slave = (Fd(number) for number in os.openpty())
            self.master = master
            _same_settings(self.terminal[0], slave.fileno())
        for number in range(3):
            if number in self.terminal:
                self.theirs.append(slave.dup())
                continue
            reader, writer = (Fd(end) for end in os.pipe2(os.O_CLOEXEC))
            self.ours[number] = reader if number else writer
            self.theirs.append(writer if number else reader)
        if self.terminal:
            slave.close()

    def close(self) -> None:
        for fd in [*self.theirs, *self.ours.values(), *([self.master] if self.master is not None else [])]:
            fd.close()

    @property
    def typed(self) -> bool:
        """Whether keys of the operator's terminal go to the command."""
        return 0 in self.terminal


class Relay:
    """Copies until the command has ended: `run` gives the word on how. Borrows everything."""

    def __init__(self, streams: Streams, lease: Fd) -> None:
        self._streams, self._lease = streams, lease
        self._outputs: dict[int, int] = {
            streams.ours[number].fileno(): number for number in (1, 2) if number in streams.ours
        }
        if streams.master is not None:
            self._outputs[streams.master.fileno()] = next(n for n in (1, 2, 0) if n in streams.terminal)
        self._reading = True  # our standard input
        self._waiting = b""  # read there, and not taken by the command yet
        self._escapes = 0
        self._ended: wire.Ended | None = None
        self._deadline: float | None = None

    def run(self) -> wire.Ended:
        """Raises Lost."""
        with self._signals():
            while self._ended is None and self._turn():
                pass
            if self._ended is None:
                return wire.Ended(signal.SIGKILL, "it was given up")
            # What it wrote last. A descriptor that a sibling of its kept open must not keep us.
            self._reading, self._waiting = False, b""
            self._deadline = time.monotonic() + _LATE
            while self._outputs and self._turn():
                self._deadline = time.monotonic() + _LATE
        return self._ended

    def _turn(self) -> bool:
        """Wait until something can be done, and do it. False: the deadline has passed."""
        poll = select.poll()
        wanted = dict.fromkeys(self._outputs, select.POLLIN)
        if self._ended is None:
            wanted[self._lease.fileno()] = select.POLLIN
        if self._waiting:
            wanted[self._inward] = wanted.get(self._inward, 0) | select.POLLOUT
        elif self._reading:
            wanted[0] = select.POLLIN
        for number, events in wanted.items():
            poll.register(number, events)
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        happened = dict(poll.poll(None if left is None else max(1, int(left * 1000))))
        if not happened:
            return self._deadline is None
        if self._lease.fileno() in happened:
            self._on_lease()
        for number in [number for number in happened if number in self._outputs]:
            if happened[number] & ~select.POLLOUT:
                self._show(number, self._outputs[number])
        if 0 in happened and self._reading:
            self._take()
        elif self._waiting and happened.get(self._inward, 0):
            self._pass_on()
        return True

    # — the lease —

    def _on_lease(self) -> None:
        try:
            received = receive_with_fds(self._lease.fileno(), wire.MAX_DATAGRAM, 0)
        except OSError as error:
            raise Lost from error
        if not received.data:
            raise Lost
        with contextlib.suppress(ValueError):
            self._ended = wire.decode_ended(received.data)

    def _send(self, number: int) -> None:
        """Have a signal sent to the command."""
        with contextlib.suppress(OSError):
            send_with_fds(self._lease.fileno(), wire.encode_signal(number))

    # — from the command —

    def _show(self, number: int, to: int) -> None:
        try:
            data = os.read(number, _PIECE)
        except OSError:  # EIO: nobody holds the terminal any more
            data = b""
        if not data:
            del self._outputs[number]
            return
        try:
            while data:
                data = data[os.write(to, data) :]
        except OSError:  # nobody reads ours: the command learns it by its own
            del self._outputs[number]
            if to in self._streams.ours:
                self._streams.ours.pop(to).close()

    # — to the command —

    @property
    def _inward(self) -> int:
        """Where what is typed or read goes."""
        if self._streams.typed and self._streams.master is not None:
            return self._streams.master.fileno()
        return self._streams.ours[0].fileno()

    def _take(self) -> None:
        try:
            data = os.read(0, _PIECE)
        except OSError:
            data = b""
        if not data:
            self._input_over()
            return
        if self._streams.typed:
            self._look_for_keys(data)
        self._waiting = data
        os.set_blocking(self._inward, False)
        self._pass_on()

    def _pass_on(self) -> None:
        """Without waiting: a command that reads nothing must not keep us from showing what it writes."""
        try:
            self._waiting = self._waiting[os.write(self._inward, self._waiting) :]
        except BlockingIOError:
            return
        except OSError:  # it reads no more
            self._waiting = b""
            self._input_over()

    def _input_over(self) -> None:
        self._reading = False
        if self._streams.typed:
            self._send(signal.SIGHUP)  # the operator's terminal is gone
        else:
            self._streams.ours.pop(0).close()

    def _look_for_keys(self, data: bytes) -> None:
        for byte in data:
            self._escapes = self._escapes + 1 if byte == ESCAPE else 0
            if self._escapes == 3:
                self._deadline = 0.0
                return
        if self._streams.master is None:
            return
        settings = termios.tcgetattr(self._streams.master.fileno())
        if settings[3] & termios.ISIG:
            for key, number in _KEYS.items():
                if settings[6][key] != b"\0" and settings[6][key] in data:
                    self._send(number)

    # — signals to us —

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in wire.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Passed on; and a window that changes its size. What would end us ends us, once the command had its time."""
        if number == signal.SIGWINCH and self._streams.master is not None:
            with contextlib.suppress(OSError):
                _same_size(self._streams.terminal[0], self._streams.master.fileno())
        self._send(number)
        if number in (signal.SIGTERM, signal.SIGHUP) and self._deadline is None:
            self._deadline = time.monotonic() + _PATIENCE


@contextlib.contextmanager
def raw(streams: Streams) -> Iterator[None]:
    """The operator's terminal passes every key on, and is as it was afterwards, however this ends."""
    if not streams.typed:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _isatty(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False


def _same_settings(of: int, to: int) -> None:
    termios.tcsetattr(to, termios.TCSANOW, termios.tcgetattr(of))
    _same_size(of, to)


def _same_size(of: int, to: int) -> None:
    size = fcntl.ioctl(of, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
    fcntl.ioctl(to, termios.TIOCSWINSZ, size)
