"""Hiding the vDSO, the page of kernel code that tells the time without a call.

Facts: the C library finds it by the entry AT_SYSINFO_EHDR of the auxiliary vector, which the kernel writes
onto the new stack in execve(2). Nothing in the process can run before the C library has read it. A tracer
can: at the exec stop it changes the entry into AT_IGNORE, and lets go. From then on, and in every fork, the C
library makes real calls, which a filter sees. The pages themselves are still mapped (at a random place, but
they can be searched for), so the program unmaps them before it runs anything foreign.

What does not work: `vdso=0` is a kernel parameter, not a process's; LD_PRELOAD comes after the reading.
Cost: about 0.3 ms an exec, for two stops.

Sequence. The tracer must be the tracee's parent, which the double fork gives us anyway: the launcher forks
the tracee, waits here, and exits, so that the tracee ends up a child of init. If a filter makes execve a
notification, its supervisor is another process, or it answers from its own loop: this function only waits.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from typing import Final

from fildes.kernel.libc import MACHINE, syscall

PTRACE_TRACEME: Final = 0
PTRACE_PEEKDATA: Final = 2
PTRACE_POKEDATA: Final = 5
PTRACE_CONT: Final = 7
PTRACE_DETACH: Final = 17
PTRACE_SETOPTIONS: Final = 0x4200
PTRACE_GETREGSET: Final = 0x4204
PTRACE_O_TRACEEXEC: Final = 0x10
PTRACE_O_EXITKILL: Final = 0x100000
PTRACE_EVENT_EXEC: Final = 4
NT_PRSTATUS: Final = 1

AT_NULL: Final = 0
AT_IGNORE: Final = 1
AT_SYSINFO_EHDR: Final = 33

_STACK_POINTER = {"x86_64": 19, "aarch64": 31}[MACHINE]  # its place among the words of NT_PRSTATUS
_WORD = 8
# aarch64 returns from signal handlers through code in the vDSO; its data pages are what tells the time.
_UNMAPPED = ("[vdso]", "[vvar]", "[vvar_vclock]") if MACHINE == "x86_64" else ("[vvar]",)


Span = tuple[int, int]  # address, length


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def traceme() -> None:
    """Tracee: stop for the parent, which is in `hide_vdso_at_exec`. Before any filter that refuses ptrace."""
    syscall("ptrace", PTRACE_TRACEME, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)


def hide_vdso_at_exec(pid: int, timeout: float = 10.0) -> list[Span]:
    """Tracer: wait until the child `pid`, which called `traceme`, execs; hide the vDSO from it; let it go.

    Blocks, at most `timeout` seconds. Returns where the pages are that the program is to unmap (`unmap_vdso`): none if
    there was no vDSO to hide, or no /proc to see it in. Raises ChildProcessError if the child ended instead,
    TimeoutError if it did neither; it is then killed, not reaped.
    """
    proc = _open_proc()  # now: a child that shares our mount namespace may pivot our root away
    deadline = time.monotonic() + timeout
    # Blocked, so that SIGCHLD waits for sigtimedwait; a wait for a stop has no timeout of its own.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        _await_stop(pid, deadline)
        _ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)
        pending = 0
        while True:
            _ptrace(PTRACE_CONT, pid, 0, pending)
            status = _await_stop(pid, deadline)
            if status >> 8 == signal.SIGTRAP | PTRACE_EVENT_EXEC << 8:
                break
            pending = os.WSTOPSIG(status)  # a signal on its way to the child: hand it on
        spans = _spans(f"{pid}/maps", proc) if _hide(pid) and proc is not None else []
        _ptrace(PTRACE_DETACH, pid, 0, 0)
        return spans
    finally:
        if proc is not None:
            os.close(proc)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open_proc() -> int | None:
    try:
        return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _await_stop(pid: int, deadline: float) -> int:
    while True:
        # WNOWAIT first: a child that ended stays to be reaped by whoever keeps its status.
        state = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        if state is not None and state.si_code in (os.CLD_STOPPED, os.CLD_TRAPPED):
            return os.waitpid(pid, os.WUNTRACED)[1]
        if state is not None:
            raise ChildProcessError(f"process {pid} ended before its exec, with status {state.si_status}")
        left = deadline - time.monotonic()
        if left <= 0 or signal.sigtimedwait({signal.SIGCHLD}, left) is None:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"process {pid} did not exec in time; it was killed")


def _hide(pid: int) -> bool:
    address = _stack_pointer(pid)
    address += _WORD * (_peek(pid, address) + 2)  # argc, argv[argc], NULL
    while _peek(pid, address):  # envp
        address += _WORD
    address += _WORD
    while (kind := _peek(pid, address)) != AT_NULL:
        if kind == AT_SYSINFO_EHDR:
            _ptrace(PTRACE_POKEDATA, pid, address, AT_IGNORE)
            _ptrace(PTRACE_POKEDATA, pid, address + _WORD, 0)
            return True
        address += 2 * _WORD
    return False


def _stack_pointer(pid: int) -> int:
    words = (ctypes.c_uint64 * 64)()
    vector = _IoVec(ctypes.addressof(words), ctypes.sizeof(words))
    _ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, ctypes.byref(vector))
    return words[_STACK_POINTER]


def _peek(pid: int, address: int) -> int:
    word = ctypes.c_uint64()
    _ptrace(PTRACE_PEEKDATA, pid, address, ctypes.byref(word))
    return word.value


def _ptrace(request: int, pid: int, address: int, data: object) -> None:
    syscall("ptrace", request, pid, address, data)


def unmap_vdso(spans: Iterable[Span] | None = None) -> list[Span]:
    """Unmap what of the vDSO tells the time, in this process: `spans`, or what /proc/self/maps says.

    Returns what stayed, as far as /proc is there to tell (nothing). Only after `hide_vdso_at_exec`: a C library that
    knows the pages would jump into nothing.
    """
    told = spans is not None
    for start, length in spans if spans is not None else _spans("self/maps"):
        syscall("munmap", start, length)
    return [] if told else _spans("self/maps")


def _spans(name: str, proc_fd: int | None = None) -> list[Span]:
    path = name if proc_fd is not None else f"/proc/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    except FileNotFoundError:
        if proc_fd is None:
            raise
        return []
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split() for line in file]
    spans = []
    for fields in lines:
        if fields[-1] in _UNMAPPED:
            start, end = (int(part, 16) for part in fields[0].split("-"))
            spans.append((start, end - start))
    return spans
