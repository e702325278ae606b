"""Bringing up the loopback of a network namespace that has just been made (netdevice(7))."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import Final

SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 0x1

_IFREQ = struct.Struct("16sH14x8x")  # char ifr_name[16]; short ifr_flags; the rest of the union


def bring_up(name: str = "lo") -> None:
    """Raises OSError: without CAP_NET_ADMIN over the namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        flags = _IFREQ.unpack(answer)[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, _IFREQ.pack(name.encode(), flags | IFF_UP))
