"""Taking a plan's steps: two processes that end in a confined program, which is a child of neither.

    caller ── fork ──► launcher ── fork ──► program

The launcher makes the namespaces, forks the program into the new PID namespace, hides the vDSO at its exec, and ends:
the program, PID 1 of its namespace, becomes a child of the nearest subreaper, and its death takes all that it started
with it. On the control socket come, in this order:

    born        with a pidfd of the program
    confined    with its listener; its exec is the first call that waits there, and should be the only one let through:
                another one would bring the vDSO back
    hidden      "vdso": where the program is to unmap it (kernel/vdso.py)
    failed      instead of any of them: "error", a sentence that begins with the step; "detail", a traceback
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from fildes.kernel import process, vdso
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, send_with_fds, seqpacket_pair
from fildes.sandbox.plan import Plan
from fildes.sandbox.steps import Room, Step

Encode = Callable[[dict[str, Any]], bytes]  # a message {"is": word, …} → datagram


def launch(plan: Plan, program: bytes, *, log: int, cgroup: Cgroup | None, encode: Encode) -> tuple[int, Fd]:
    """Start the plan's program under the filter `program`. `log` is borrowed.

    Returns the launcher's pid, to be reaped, and our end of the control socket.
    """
    ours, theirs = seqpacket_pair()
    pid = os.fork()
    if pid == 0:
        _run(plan.outer(), _room(theirs.fileno(), log, program, cgroup, encode), lambda room: _fork(plan, room))
    theirs.close()
    return pid, ours


def _room(control: int, log: int, program: bytes, cgroup: Cgroup | None, encode: Encode) -> Room:
    def say(word: str, fds: Sequence[int] = (), **more: Any) -> None:
        send_with_fds(room.control, encode({"is": word, **more}), fds)

    room = Room(control, log, program, cgroup, say, encode({"is": "confined"}))
    return room


def _run(steps: list[Step], room: Room, afterwards: Callable[[Room], None]) -> NoReturn:
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
            room.say("failed", error=f"{doing}: {error}", detail=traceback.format_exc())
        os._exit(71)  # EX_OSERR of sysexits.h
    os._exit(0)


def _fork(plan: Plan, room: Room) -> None:
    pid = os.fork()
    if pid == 0:
        _run(plan.inner(), room, lambda _: None)
    with process.pidfd_open(pid) as pidfd:
        room.say("born", [pidfd.fileno()])
    try:
        room.say("hidden", vdso=vdso.hide_vdso_at_exec(pid))
    except ChildProcessError:
        os.waitpid(pid, 0)  # it has said itself what failed
