"""Who is at the other end of a unix socket: SO_PEERCRED (unix(7))."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

_UCRED: Final = struct.Struct("iII")  # pid_t pid; uid_t uid; gid_t gid


class Credentials(NamedTuple):
    """As they were when the peer connected. A uid that our user namespace has no number for is the overflow uid."""

    pid: int
    uid: int
    gid: int


def of_peer(sock: int) -> Credentials:
    """The peer of the connected unix socket `sock` (borrowed)."""
    borrowed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, sock)
    try:
        return Credentials(*_UCRED.unpack(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
    finally:
        borrowed.detach()


def overflow_uid() -> int:
    """The number that stands for "somebody else" (proc_sys_kernel(5))."""
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
        return int(file.read())
