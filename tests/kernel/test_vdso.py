"""The vDSO hidden at exec, also while the exec itself waits for a supervisor."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from fildes.kernel import libc, notify, process, seccomp, vdso
from fildes.kernel.fds import receive_with_fds, send_with_fds, seqpacket_pair
from fildes.kernel.seccomp import Clause
from fildes.testing import forked

AT_SYSINFO_EHDR = 33

PROGRAM = """
import ctypes, os, time
from fildes.kernel import process
libc = ctypes.CDLL(None)
libc.getauxval.restype = ctypes.c_ulong
print(libc.getauxval(33), process.unmap_vdso())
assert time.time() > 0 and time.monotonic() > 0   # calls of the kernel now
time.sleep(0.001)
pid = os.fork()                                   # children inherit it
if pid == 0:
    names = {line.split()[-1] for line in open("/proc/self/maps")}
    os._exit(len(names & {"[vvar]", "[vvar_vclock]"}))
print(os.waitpid(pid, 0)[1])
"""


def exec_python(source: str, output: int) -> None:
    os.dup2(output, 1)
    os.execv(sys.executable, [sys.executable, "-c", source])


def traced(source: str) -> tuple[bool, str, int]:
    """`source` in an interpreter whose vDSO is hidden: (was there one, its output, its exit status)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            process.traceme()
            exec_python(source, writer)
        finally:
            os._exit(1)
    os.close(writer)
    found = bool(process.hide_vdso_at_exec(pid))
    with os.fdopen(reader) as file:
        text = file.read()
    return found, text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_hidden_unmapped_inherited() -> None:
    assert traced(PROGRAM) == (True, "0 []\n0\n", 0)


def test_unmapped_by_what_the_tracer_saw() -> None:
    """Without /proc in the program: the tracer, which has it, tells where the pages are."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            process.traceme()
            source = f"""
import json, os
from fildes.kernel import vdso
vdso.unmap_vdso([tuple(span) for span in json.loads(os.read({reader}, 1000))])
assert vdso._spans("self/maps") == []
"""
            os.set_inheritable(reader, True)
            os.execv(sys.executable, [sys.executable, "-c", source])
        finally:
            os._exit(1)
    os.close(reader)
    spans = process.hide_vdso_at_exec(pid)
    os.write(writer, json.dumps(spans).encode())
    os.close(writer)
    assert len(spans) >= 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_there_is_one_to_hide() -> None:
    source = "import ctypes; f = ctypes.CDLL(None).getauxval; f.restype = ctypes.c_ulong; print(f(33) != 0)"
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, check=True).stdout == b"True\n"


@pytest.mark.skipif(libc.MACHINE != "x86_64", reason="rdtsc is x86_64's")
@pytest.mark.parametrize("code", [b"\x0f\x31\xc3", b"\x0f\x01\xf9\xc3"], ids=["rdtsc", "rdtscp"])
def test_the_time_stamp_counter_faults(code: bytes) -> None:
    source = f"""
import ctypes, hashlib, mmap, os, ssl, sys
from fildes.kernel import process
page = mmap.mmap(-1, 4096, prot=7)
page.write({code!r})
read = ctypes.CFUNCTYPE(ctypes.c_uint)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
read()
process.unmap_vdso(); process.set_tsc_faults()
ssl.RAND_bytes(8); hashlib.sha256(b"x")     # what real programs do goes on
print("before", flush=True)
if os.fork() == 0:
    read(); os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert traced(source) == (True, f"before\n{-signal.SIGSEGV}\n", 0)


def test_with_a_listener_installed_before_the_exec() -> None:
    """As a zygote starts: the launcher traces, while the supervisor, another process, answers the exec."""
    every_exec = (Clause(seccomp.RET_USER_NOTIF),)
    program = seccomp.assemble({libc.NR["execve"]: every_exec, libc.NR["getppid"]: every_exec}, seccomp.RET_ALLOW)
    ours, theirs = seqpacket_pair()

    def launcher() -> tuple[bool, int]:
        pid = os.fork()
        if pid == 0:
            try:
                process.traceme()
                process.set_no_new_privs()
                with seccomp.install(program, listener=True) as listener:
                    send_with_fds(theirs.fileno(), b"L", [listener.fileno()])
                os.execv(sys.executable, [sys.executable, "-c", "import os; raise SystemExit(os.getppid() != 4711)"])
            finally:
                os._exit(99)
        return bool(process.hide_vdso_at_exec(pid)), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with ours:
        with theirs:
            child = forked.start(launcher, keep={theirs.fileno()})
        (listener,) = receive_with_fds(ours.fileno()).fds
    seen = []
    with listener:
        while child.pipe not in select.select([listener.fileno(), child.pipe], [], [], 20)[0]:
            notification = notify.receive(listener.fileno())
            if notification is None:
                break
            seen.append(notification.nr)
            if notification.nr == libc.NR["execve"]:
                notify.proceed(listener.fileno(), notification.id)
            else:
                notify.answer(listener.fileno(), notification.id, 4711)
        assert child.result() == (True, 0)
    assert seen == [libc.NR["execve"], libc.NR["getppid"]]


def test_a_listener_is_handed_over_without_a_look_at_the_clock() -> None:
    """A vDSO that has no clock to read (an unstable TSC) makes a call of it, which waits for the listener itself."""
    ours, theirs = seqpacket_pair()
    source = f"""
import time
from fildes.kernel import libc, process, seccomp
from fildes.sandbox import steps
process.set_no_new_privs()
answered = seccomp.Clause(seccomp.RET_USER_NOTIF),
program = seccomp.assemble({{libc.NR[name]: answered for name in ("clock_gettime", "gettimeofday")}}, seccomp.RET_ALLOW)
steps.Filter("load").execute(steps.Room({theirs.fileno()}, 2, program, None, None, b"confined"))
time.monotonic()
"""

    def launcher() -> int:
        pid = os.fork()
        if pid == 0:
            try:
                process.traceme()
                os.set_inheritable(theirs.fileno(), True)
                os.execv(sys.executable, [sys.executable, "-c", source])
            finally:
                os._exit(99)
        process.hide_vdso_at_exec(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with ours:
        with theirs:
            child = forked.start(launcher, keep={theirs.fileno()})
        if not select.select([ours.fileno()], [], [], 10)[0]:
            child.kill()
            pytest.fail("it waits for a listener that nobody has")
        received = receive_with_fds(ours.fileno())
    assert received.data == b"confined"
    [listener] = received.fds
    with listener:
        while child.pipe not in select.select([listener.fileno(), child.pipe], [], [], 20)[0]:
            if (notification := notify.receive(listener.fileno())) is None:
                break
            notify.proceed(listener.fileno(), notification.id)
        assert child.result() == 0


def test_as_pid_1_of_its_namespace() -> None:
    """A process that signals can't stop is still stopped for its tracer."""

    def launcher() -> tuple[bool, int]:
        from fildes.kernel import namespaces

        namespaces.unshare(namespaces.CLONE_NEWPID | (namespaces.CLONE_NEWUSER if os.geteuid() else 0))
        pid = os.fork()
        if pid == 0:
            try:
                process.traceme()
                os.execv(sys.executable, [sys.executable, "-c", "import os; raise SystemExit(os.getpid() != 1)"])
            finally:
                os._exit(99)
        return bool(process.hide_vdso_at_exec(pid)), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert forked.run(launcher) == (True, 0)


def test_a_child_that_ends_instead_is_not_reaped() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            process.traceme()
        finally:
            os._exit(3)
    with pytest.raises(ChildProcessError, match="status 3"):
        process.hide_vdso_at_exec(pid)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_a_child_that_does_not_exec_in_time_is_killed() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            process.traceme()
            signal.pause()
        finally:
            os._exit(3)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        process.hide_vdso_at_exec(pid, timeout=0.1)
    assert time.monotonic() - began < 2
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_signals_on_the_way_are_handed_on() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGUSR1, lambda *_: os.write(writer, b"handled"))
            process.traceme()
            os.kill(os.getpid(), signal.SIGUSR1)
            os.execv("/bin/true", ["true"])
        finally:
            os._exit(3)
    os.close(writer)
    assert process.hide_vdso_at_exec(pid)
    assert os.read(reader, 10) == b"handled"
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_signal_mask_is_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    traced("")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_errors_name_the_call() -> None:
    with pytest.raises(OSError, match="ptrace") as raised:
        vdso._ptrace(vdso.PTRACE_CONT, os.getpid(), 0, 0)
    assert raised.value.errno == errno.ESRCH
