"""From `fildes up` to init: namespaces of its own where that is allowed, a /proc that fits them, and the exec.

    keeper ── fork ──► middle ── fork ──► init (PID 1 of its namespaces)

A process can't move itself into a new PID namespace, only its children: hence the middle one. It ends at once, and the
keeper, a subreaper, becomes init's parent.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

from fildes.init import upgrade
from fildes.init.ledger import Ledger
from fildes.kernel import mounts, namespaces, process
from fildes.kernel.fds import Fd

_OURS = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC


def has_root() -> bool:
    """Whether this process may give each daemon and each service a uid of its own."""
    effective, _, _ = process.capabilities()
    return {process.CAP_SYS_ADMIN, process.CAP_SETUID, process.CAP_SETGID} <= effective and os.geteuid() == 0


def own_uids() -> int | None:
    """The first uid of the node's own range; None: it runs under one uid."""
    if not has_root():
        return None
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return uid_base(file.read())


def uid_base(uid_map: str) -> int | None:
    """The first uid of the node's own range, given the text of /proc/self/uid_map; None if no range fits.

    Far from what distributions and container engines give out; inside a container whatever its map reaches.
    """
    for base in (1_900_000_000, 500_000, 40_000):
        for line in uid_map.splitlines():
            first, _, count = (int(word) for word in line.split())
            if first <= base and base + RANGE <= first + count:
                return base
    return None


RANGE = 20_000  # uids: daemons first, services after them


def launch(ledger: Ledger, output: int) -> Fd:
    """Start init with `ledger`, its standard output and error on `output` (borrowed). Returns a pidfd of it.

    The caller is a subreaper and has blocked the signals that init shall hear. Raises OSError.
    """
    report, reporter = (Fd(n) for n in os.pipe2(os.O_CLOEXEC))
    middle = os.fork()
    if middle == 0:
        _middle(ledger, output, reporter.fileno())
    reporter.close()
    with report:
        text = os.read(report.fileno(), 64)
    os.waitpid(middle, 0)
    if not text:
        raise OSError("init could not be started; the reason is above")
    return process.pidfd_open(int(text))


def _middle(ledger: Ledger, output: int, reporter: int) -> NoReturn:
    try:
        own = _leave(one_uid=ledger.uid_base is None)
        pid = os.fork()
        if pid == 0:
            _become_init(ledger, output, own)
        os.write(reporter, str(pid).encode())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _leave(*, one_uid: bool) -> bool:
    """New namespaces: with root's rights, or inside a new user namespace, or not at all. Whether there are."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        if not one_uid:
            namespaces.unshare(_OURS)
            return True
        namespaces.unshare(namespaces.CLONE_NEWUSER | _OURS)
    except OSError as error:
        print(f"fildes: without namespaces of its own: {error.strerror}", file=sys.stderr, flush=True)
        return False
    # The uid keeps its number, so that files and processes look the same from inside and outside.
    namespaces.write_id_maps("self", f"{uid} {uid} 1", f"{gid} {gid} 1", deny_setgroups=True)
    return True


def _become_init(ledger: Ledger, output: int, own: bool) -> NoReturn:
    try:
        os.setsid()
        if own:
            _fresh_proc()
        with Fd.open("/dev/null", os.O_RDONLY) as null:
            os.dup2(null.fileno(), 0)
        for number in (1, 2):
            os.dup2(output, number)
        os.chdir("/")
        upgrade.execute(ledger)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _fresh_proc() -> None:
    """A /proc of the new PID namespace, seen by the node only: nothing mounted here reaches the machine."""
    mounts.make_private("/")
    quiet = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
    try:
        with mounts.new_filesystem("proc", {}, quiet) as proc:
            mounts.move_mount(proc.fileno(), mounts.AT_FDCWD, "/proc")
    except OSError as error:
        # In a container with parts of /proc masked the kernel gives no user another one. The old one works for
        # /proc/self, which is all that the daemons need of it.
        print(f"fildes: no /proc of its own ({error.strerror}); `fildes doctor` says more", file=sys.stderr)


def start_pipe() -> tuple[Fd, Fd]:
    """What init and the daemons print: (the keeper's end, theirs)."""
    ours, theirs = (Fd(n) for n in os.pipe2(os.O_CLOEXEC))
    os.set_blocking(ours.fileno(), False)
    return ours, theirs
