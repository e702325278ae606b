"""Taking a plan's steps: two processes that end in a confined program, which is a child of neither.

    caller ── fork ──► launcher ── fork ──► program

The launcher makes the namespaces, forks the program into the new PID namespace, says "born" with a pidfd of it, hides
the vDSO at its exec, and ends: the program, PID 1 of its namespace, becomes a child of the nearest subreaper, and its
death takes all that it started with it. The program's exec is the first call that waits at its listener, which came
with "confined".
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from fildes.kernel import process, vdso
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, send_with_fds, seqpacket_pair
from fildes.sandbox.plan import Plan
from fildes.sandbox.steps import Room, Step

Encode = Callable[[str, str, str], bytes]  # word, error, detail → datagram


def launch(plan: Plan, program: bytes, *, log: int, cgroup: Cgroup | None, encode: Encode) -> tuple[int, Fd]:
    """Start the plan's program under the filter `program`. `log` is borrowed.

    Returns the launcher's pid, to be reaped, and our end of the control socket, on which come
    encode("born", "", "") + a pidfd, encode("confined", "", "") + a listener, or encode("failed", error, traceback).
    """
    ours, theirs = seqpacket_pair()
    pid = os.fork()
    if pid == 0:
        _run(
            plan.outer(), _room(theirs.fileno(), log, program, cgroup, encode), encode, lambda r: _fork(plan, r, encode)
        )
    theirs.close()
    return pid, ours


def _room(control: int, log: int, program: bytes, cgroup: Cgroup | None, encode: Encode) -> Room:
    def say(word: str, fds: Sequence[int]) -> None:
        send_with_fds(room.control, encode(word, "", ""), fds)

    room = Room(control, log, program, cgroup, say)
    return room


def _run(steps: list[Step], room: Room, encode: Encode, afterwards: Callable[[Room], None]) -> NoReturn:
    """Take `steps`; whoever ordered is told of the first that fails."""
    doing = "its launcher began"
    try:
        signal.set_wakeup_fd(-1)
        for step in steps:
            doing = step.describe().split("\n", 1)[0]
            step.execute(room)
        doing = "its program was started"
        afterwards(room)
    except BaseException as error:
        with contextlib.suppress(OSError):
            send_with_fds(room.control, encode("failed", f"{doing}: {error}", traceback.format_exc()))
        os._exit(71)  # EX_OSERR of sysexits.h
    os._exit(0)


def _fork(plan: Plan, room: Room, encode: Encode) -> None:
    pid = os.fork()
    if pid == 0:
        _run(plan.inner(), room, encode, lambda _: None)
    with process.pidfd_open(pid) as pidfd:
        room.say("born", [pidfd.fileno()])
    try:
        vdso.hide_vdso_at_exec(pid)
    except ChildProcessError:
        os.waitpid(pid, 0)  # it has said itself what failed
