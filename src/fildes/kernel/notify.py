"""The supervisor's side of SECCOMP_RET_USER_NOTIF (seccomp_unotify(2)): receive a call, answer it.

A listener is readable while a call waits. After every wait the target may be gone; that is not an error
here but an answer: None from `receive`, False from the others.
"""

from __future__ import annotations

import errno
import fcntl
import select
import struct
from typing import Final

# <linux/seccomp.h>; struct seccomp_notif is 80 bytes, _resp 24, _addfd 24
SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID: Final = 0x40082102
SECCOMP_IOCTL_NOTIF_ADDFD: Final = 0x40182103
SECCOMP_IOCTL_NOTIF_SET_FLAGS: Final = 0x40082104
SECCOMP_USER_NOTIF_FLAG_CONTINUE: Final = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: Final = 1
SECCOMP_ADDFD_FLAG_SEND: Final = 2

_NOTIF = struct.Struct("<QIIiIQ6Q")  # id, pid, flags, nr, arch, instruction pointer, args
_RESP = struct.Struct("<QqiI")  # id, value, negative errno, flags
_ADDFD = struct.Struct("<QIIII")  # id, flags, srcfd, newfd, newfd_flags
_ID = struct.Struct("<Q")
_ZEROES = bytes(_NOTIF.size)
_O_CLOEXEC = 0o2000000


class Notification:
    """One waiting call. `pid` is a thread id in our pid namespace; a pointer in `args` proves nothing."""

    __slots__ = ("args", "flags", "id", "nr", "pid")

    def __init__(self, fields: tuple[int, ...]) -> None:
        self.id, self.pid, self.flags, self.nr = fields[:4]
        self.args = fields[6:]

    def __repr__(self) -> str:
        return f"Notification(id={self.id:#x}, pid={self.pid}, nr={self.nr}, args={self.args})"


def receive(listener: int) -> Notification | None:
    """The next waiting call, or None when its thread died meanwhile.

    Blocks when nothing waits: call it when the listener is readable. Raises OSError when the listener is
    no longer of use.
    """
    buffer = bytearray(_ZEROES)  # the kernel refuses (EINVAL) a buffer that is not zero
    try:
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, buffer, True)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return Notification(_NOTIF.unpack(buffer))


def waiting(listener: int) -> bool:
    """Whether a call waits to be received now."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def proceed(listener: int, id: int) -> bool:
    """Let the kernel run the call as it was made. Never a security decision on what a pointer points to."""
    return _send(listener, _RESP.pack(id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE))


def refuse(listener: int, id: int, error: int) -> bool:
    """The call fails with `error` (a positive errno)."""
    return _send(listener, _RESP.pack(id, 0, -error, 0))


def answer(listener: int, id: int, value: int) -> bool:
    """The call returns `value` without being made."""
    return _send(listener, _RESP.pack(id, value, 0, 0))


def answer_with_fd(listener: int, id: int, fd: int) -> bool:
    """The call returns a new, close-on-exec duplicate of `fd` (borrowed) in the target; one step (5.14)."""
    request = _ADDFD.pack(id, SECCOMP_ADDFD_FLAG_SEND, fd, 0, _O_CLOEXEC)
    return _tell(listener, SECCOMP_IOCTL_NOTIF_ADDFD, request)


def alive(listener: int, id: int) -> bool:
    """Whether the call still waits: ask after looking at anything through the thread's pid."""
    return _tell(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, _ID.pack(id))


def set_sync_wake_up(listener: int) -> bool:
    """Run the supervisor on the target's CPU while that waits: halves the latency. False before 6.6."""
    # The flags are passed as the number itself, not by address.
    try:
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
    except OSError:
        return False
    return True


def _send(listener: int, response: bytes) -> bool:
    return _tell(listener, SECCOMP_IOCTL_NOTIF_SEND, response)


def _tell(listener: int, request: int, payload: bytes) -> bool:
    try:
        fcntl.ioctl(listener, request, payload)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINPROGRESS):
            return False
        raise
    return True
