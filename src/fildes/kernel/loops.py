"""Loop devices (loop(4)): a file as a disk. One made here is gone when nobody uses it any more, whoever is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from fildes.kernel.fds import Fd

LOOP_CTL_GET_FREE: Final = 0x4C82
LOOP_CONFIGURE: Final = 0x4C0A  # Linux 5.8
LOOP_GET_STATUS64: Final = 0x4C05
LO_FLAGS_AUTOCLEAR: Final = 4
LO_FLAGS_DIRECT_IO: Final = 16

_CONTROL: Final = "/dev/loop-control"
# struct loop_info64, <linux/loop.h>: device, inode, …, number, …, flags, names, key, init.
_INFO: Final = struct.Struct("<QQQQQIIII64s64s32sQQ")
_CONFIG: Final = struct.Struct(f"<II{_INFO.size}s64x")
_ATTEMPTS: Final = 64


def usable() -> bool:
    """Whether this process may make one."""
    try:
        Fd.open(_CONTROL, os.O_RDWR).close()
    except OSError:
        return False
    return True


def attached(file: int) -> Fd | None:
    """The loop device of the file `file` (borrowed), open; None if it has none. It stays while this is open."""
    wanted = os.fstat(file)
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop") or not os.path.exists(f"/sys/block/{name}/loop"):
            continue
        try:
            device = Fd.open(f"/dev/{name}", os.O_RDWR)
        except OSError:
            continue
        try:
            status = fcntl.ioctl(device.fileno(), LOOP_GET_STATUS64, bytes(_INFO.size))
        except OSError:  # it was given up in the meantime
            device.close()
            continue
        if tuple(_INFO.unpack(status)[:2]) == (wanted.st_dev, wanted.st_ino):
            return device
        device.close()
    return None


def attach(file: int) -> Fd:
    """A new loop device of the file `file` (borrowed), open. It is gone when it is closed, and no mount has it.

    Twice for one file would be two disks that overwrite each other: see `attached`. Raises OSError.
    """
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, b"fildes", b"", b"", 0, 0)
    with Fd.open(_CONTROL, os.O_RDWR) as control:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control.fileno(), LOOP_CTL_GET_FREE)
            device = Fd.open(f"/dev/loop{number}", os.O_RDWR)
            try:
                fcntl.ioctl(device.fileno(), LOOP_CONFIGURE, _CONFIG.pack(file, 0, info))
                return device
            except OSError as error:
                device.close()
                if error.errno != errno.EBUSY:  # somebody else took that number first
                    raise OSError(error.errno, f"loop device {number}: {os.strerror(error.errno or 0)}") from error
    raise OSError(errno.EBUSY, "no loop device could be had")


def path_of(device: int) -> str:
    """ "/dev/loop3" of an open loop device (borrowed)."""
    return f"/dev/loop{_INFO.unpack(fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(_INFO.size)))[5]}"
