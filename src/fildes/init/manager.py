"""What a service manager is told of the node: the protocol of sd_notify(3), by hand.

One datagram of `NAME=value` lines a message, to the socket that NOTIFY_SOCKET names. Only `fildes up` says anything, so
a unit needs no NotifyAccess= beyond the default of Type=notify.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
# What init says to the keeper on the lifeline.
READY: Final = b"ready"  # once: the node serves
UPGRADED: Final = b"upgraded"  # an upgrade is over, well or not


def address(variable: str) -> str | None:
    """Where to send, given the variable's text ("" where it is not set); "@…" is an abstract socket. None: nowhere."""
    if variable[:1] not in ("/", "@") or len(variable) < 2:
        return None
    return "\0" + variable[1:] if variable[0] == "@" else variable


class Manager:
    """Where there is none, or it does not listen any more, nothing happens: the node does not depend on it."""

    def __init__(self, variable: str) -> None:
        self._address = address(variable)

    def ready(self, status: str) -> None:
        """The node serves, or its upgrade is over; `status` is shown by `systemctl status`."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """An upgrade begins; `ready` says when it is over. With the time, as Type=notify-reload wants it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The node closes."""
        self._send("STOPPING=1", "STATUS=closing")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines).encode()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)  # a manager that hangs does not hang the node
            sock.sendto(message, self._address)
