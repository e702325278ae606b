"""A process and what it may do: pidfds, identity, privileges, descriptors in bulk.

One function a call. `become` and `drop_capabilities` check what they did: a privilege that stayed is an
error, not a surprise.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
from typing import Final

from fildes.kernel.fds import SO_PASSPIDFD, SO_PEERPIDFD, Fd
from fildes.kernel.libc import MACHINE, prctl, syscall
from fildes.kernel.vdso import hide_vdso_at_exec as hide_vdso_at_exec  # noqa: PLC0414 (handed on)
from fildes.kernel.vdso import traceme as traceme  # noqa: PLC0414
from fildes.kernel.vdso import unmap_vdso as unmap_vdso  # noqa: PLC0414

PR_SET_PDEATHSIG: Final = 1
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_NAME: Final = 15
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_TSC: Final = 26
PR_TSC_SIGSEGV: Final = 2
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

CLOSE_RANGE_CLOEXEC: Final = 4
LAST_FD: Final = 0xFFFFFFFF

CAP_DAC_OVERRIDE: Final = 1
CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_ADMIN: Final = 12
CAP_SYS_CHROOT: Final = 18
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21

_PIDFD_GET_INFO: Final = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info of 64 bytes), 6.13
_PIDFD_INFO = struct.Struct("<QQ12i")  # mask, cgroup id, pid, tgid, …
_CAPABILITY_VERSION_3: Final = 0x20080522
_INT = struct.Struct("i")


# --- pidfds


def pidfd_open(pid: int) -> Fd:
    """pidfd_open(2). Of a pid that is not our child, check afterwards that it is still who was meant."""
    return Fd(os.pidfd_open(pid))


def pidfd_send_signal(pidfd: int, number: int) -> bool:
    """Send signal `number` to the process of `pidfd` (borrowed); False when it is gone already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def has_ended(pidfd: int) -> bool:
    """Whether the process behind a pidfd (borrowed) has ended; pidfd_open(2): it polls as readable then."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def pidfd_pid(pidfd: int) -> int:
    """The pid, in our pid namespace, that `pidfd` (borrowed) stands for; −1 once it is gone."""
    buffer = bytearray(_PIDFD_INFO.size)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer, True)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EREMOTE):  # reaped; in a pid namespace that is not below ours
            return -1
        return _pid_of_fdinfo(pidfd)
    pid: int = _PIDFD_INFO.unpack(buffer)[2]
    return pid or -1


def _pid_of_fdinfo(pidfd: int) -> int:
    with Fd.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY) as file:
        for line in os.read(file.fileno(), 4096).splitlines():
            if line.startswith(b"Pid:"):
                return int(line[4:]) or -1
    raise OSError(errno.EBADF, f"fd {pidfd} is not a pidfd")


def peer_pidfd(sock: int) -> Fd:
    """SO_PEERPIDFD: who connected, or made the pair of, the unix socket `sock` (borrowed); 6.5 on."""
    borrowed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, sock)
    try:
        return Fd(_INT.unpack(borrowed.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0])
    finally:
        borrowed.detach()


def pass_credentials(sock: int) -> bool:
    """Have the kernel attest the sender of every message on `sock` (borrowed): pid, uid, gid.

    Returns whether it adds a pidfd too (6.5 on); without, a pid may have been used again by the time it
    is read.
    """
    borrowed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, sock)
    try:
        borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        borrowed.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return False
        raise
    finally:
        borrowed.detach()
    return True


# --- what stays with a process


def set_no_new_privs() -> None:
    prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:
    """Not dumpable: no core, and /proc/PID belongs to root. execve(2) sets it back."""
    prctl("PR_SET_DUMPABLE", PR_SET_DUMPABLE, int(dumpable))


def set_child_subreaper() -> None:
    """Orphaned descendants become children of this process."""
    prctl("PR_SET_CHILD_SUBREAPER", PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(number: int) -> None:
    """Get signal `number` when the *thread* that forked us ends; 0 takes it back."""
    prctl("PR_SET_PDEATHSIG", PR_SET_PDEATHSIG, number)


def set_name(name: str) -> None:
    """The thread's name as `ps` shows it, 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl("PR_SET_NAME", PR_SET_NAME, ctypes.addressof(buffer))


def set_tsc_faults() -> bool:
    """rdtsc and rdtscp raise SIGSEGV from now on, in children too.

    Call it in the new program, after its exec and with the vDSO hidden: it outlives execve, and both the
    dynamic linker at its start and the vDSO's clock_gettime use rdtsc. False where the machine has no such
    switch (aarch64: its counter can't be hidden).
    """
    if MACHINE != "x86_64":
        return False
    prctl("PR_SET_TSC", PR_SET_TSC, PR_TSC_SIGSEGV)
    return True


def close_range(first: int, last: int = LAST_FD, flags: int = 0) -> None:
    """Close (or, with CLOSE_RANGE_CLOEXEC, mark) the descriptors first…last, both included."""
    syscall("close_range", first, last, flags)


def close_all_but(keep: frozenset[int] | set[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    first = 0
    for number in sorted(keep):
        if number > first:
            close_range(first, number - 1)
        first = number + 1
    close_range(first)


# --- identity and capabilities


def capabilities() -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    """The effective, permitted and inheritable sets of this thread (capget(2))."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    syscall("capget", header, data)
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("6I", data.raw)
    return _members(low_e, high_e), _members(low_p, high_p), _members(low_i, high_i)


def _members(low: int, high: int) -> frozenset[int]:
    word = low | high << 32
    return frozenset(n for n in range(64) if word >> n & 1)


def drop_capabilities(keep: frozenset[int] = frozenset()) -> None:
    """Give up every capability but `keep`: bounding, ambient, effective, permitted; inheritable is emptied.

    The bounding set needs CAP_SETPCAP; without that it stays, which no-new-privs makes harmless. Raises
    OSError if anything else stayed.
    """
    effective, permitted, _ = capabilities()
    if CAP_SETPCAP in effective:
        _drop_bounding(keep)
    prctl("PR_CAP_AMBIENT_CLEAR_ALL", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(keep & permitted)


def _drop_bounding(keep: frozenset[int]) -> None:
    for number in range(64):
        try:
            held = prctl("PR_CAPBSET_READ", PR_CAPBSET_READ, number)
        except OSError:  # EINVAL: the first number that this kernel does not know
            return
        if held and number not in keep:
            prctl("PR_CAPBSET_DROP", PR_CAPBSET_DROP, number)


def _set_capabilities(kept: frozenset[int]) -> None:
    word = sum(1 << n for n in kept)
    low, high = word & 0xFFFFFFFF, word >> 32
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    syscall("capset", header, struct.pack("6I", low, low, 0, high, high, 0))
    effective, permitted, inheritable = capabilities()
    if effective != kept or permitted != kept or inheritable:
        raise OSError(errno.EPERM, f"capset: asked for {sorted(kept)}, have {sorted(permitted)}")


def become(uid: int, gid: int, *, keep: frozenset[int] = frozenset()) -> None:
    """Become `uid` and `gid` for good: no supplementary groups, no capability but `keep`.

    Raises OSError when a step is refused, or when the old identity could be taken back.
    """
    effective, _, _ = capabilities()
    if CAP_SETPCAP in effective:
        _drop_bounding(keep)
    if os.getgroups():
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    if keep:
        prctl("PR_SET_KEEPCAPS", PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    drop_capabilities(keep)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise OSError(errno.EPERM, f"uid {uid}, gid {gid} asked for; it is {os.getresuid()}, {os.getresgid()}")
