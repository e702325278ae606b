"""The holder's side of a connect grant: a connected stream socket."""

from __future__ import annotations

import socket


def connection(fd: int, *, outward: bool = False) -> socket.socket:
    """The socket of an introduced stream, or of a connection that the net driver made (`outward`). Takes `fd` over."""
    # Family and type are given: under the serve profile there is no call to ask for them, and none is needed.
    family = socket.AF_INET if outward else socket.AF_UNIX
    return socket.socket(family, socket.SOCK_STREAM, 0, fileno=fd)
