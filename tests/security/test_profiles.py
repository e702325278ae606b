"""Every line of every profile, tried on the real kernel, from the same file that the filter is made of.

A child installs the filter and makes the call with arguments that are harmless (bad descriptors, bad addresses),
chosen so that each clause of the line is met. The answers are compared with what the line says: an errno is that
errno; `trap` is SIGSYS and no call; `notify` is what the supervisor answers; `allow` is what the call answers without
a filter.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import itertools
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from fildes.kernel import libc, notify, process, seccomp
from fildes.kernel.abi import NUMBERS
from fildes.sandbox import profile
from fildes.testing import forked

NR = libc.NR
BAD = 0xFFFFFFFFFFFFFFFF  # no descriptor, no address, no flag set that a call knows
MARK = errno.EUCLEAN  # the supervisor's answer: no call tried here gives it
NO_PROCESS = 0x3FFFFFF0

# Calls that, when allowed, end or stop the caller whatever their arguments are, or are in use by the probe itself.
NOT_MADE = {
    "exit": "ends the thread",
    "exit_group": "ends the process",
    "rt_sigreturn": "restores a frame that is not there",
    "restart_syscall": "restores a call that is not there",
    "pause": "waits for ever",
    "rt_sigsuspend": "waits for ever where its mask is not read",
    "vfork": "a child on our own stack",
    "fork": "a second prober",
    "sync": "waits for the disks",
    "vhangup": "the terminal's",
}
# Arguments that must not be −1, by call.
HARMLESS = {
    "kill": (NO_PROCESS, 0),
    "tkill": (NO_PROCESS, 0),
    "tgkill": (NO_PROCESS, NO_PROCESS, 0),
    "rt_sigqueueinfo": (NO_PROCESS, 0),
    "rt_tgsigqueueinfo": (NO_PROCESS, NO_PROCESS, 0),
    "setpriority": (BAD,),
    "close_range": (0x7FFFFFF0, 0x7FFFFFF1),
    "ptrace": (BAD, NO_PROCESS),
}


# From 6.14 on the kernel lets these two past every filter (seccomp_uprobe_exception), for its own trampolines.
UNFILTERED = {NR[name] for name in ("uretprobe", "uprobe") if name in NR}


class Probe(NamedTuple):
    call: str
    arguments: tuple[int, ...]
    action: int


class Outcome(NamedTuple):
    value: int
    error: int
    trapped: bool


def probes(stated: profile.Profile) -> list[Probe]:
    """For each line, a set of arguments for each action that it can decide on."""
    return [probe for call in stated.calls.values() if call.name in NR for probe in _of_call(stated, call)]


def _of_call(stated: profile.Profile, call: profile.Call) -> Iterator[Probe]:
    base = list(HARMLESS.get(call.name, ())) + [BAD] * 6
    candidates = [{base[index]} for index in range(6)]
    for clause in call.clauses:
        for condition in clause.conditions:
            values = set(condition.values)
            values |= {value + 1 for value in condition.values} | {condition.mask, 0}
            candidates[condition.index] |= {value & BAD for value in values}
    found = {}
    for arguments in itertools.product(*[sorted(some, reverse=True) for some in candidates]):
        found.setdefault(stated.decide(call.name, arguments), arguments)
    for action, arguments in found.items():
        if not (action == seccomp.RET_ALLOW and (call.name in NOT_MADE or _forks(call.name, arguments))):
            yield Probe(call.name, arguments, action)


def _forks(call: str, arguments: tuple[int, ...]) -> bool:
    return call == "clone" and not arguments[0] & 0x10000


class Prober:
    """Makes raw calls, and notices SIGSYS."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._libc.syscall.argtypes = [ctypes.c_long, *[ctypes.c_ulong] * 6]
        self._trapped = 0
        signal.signal(signal.SIGSYS, self._on_sigsys)

    def _on_sigsys(self, *_: object) -> None:
        self._trapped += 1

    def call(self, number: int, arguments: tuple[int, ...]) -> Outcome:
        before = self._trapped
        ctypes.set_errno(0)
        value = self._libc.syscall(number, *arguments, *[0] * (6 - len(arguments)))
        error = ctypes.get_errno() if value == -1 else 0
        return Outcome(value, error, self._trapped > before)


def confined(program: bytes, calls: list[tuple[int, tuple[int, ...]]], supervisor: int) -> list[Outcome]:
    """In the child: `calls` under `program`. `supervisor` is a socket that takes the listener, if it has one."""
    from fildes.kernel.fds import send_with_fds

    prober = Prober()
    process.set_no_new_privs()
    if supervisor < 0:
        seccomp.install(program)
    else:
        with seccomp.install(program, listener=True) as listener:
            send_with_fds(supervisor, b"L", [listener.fileno()])
    return [prober.call(number, arguments) for number, arguments in calls]


def make(program: bytes, calls: list[tuple[int, tuple[int, ...]]], *, notified: bool) -> list[Outcome]:
    """`calls` under `program` in a child; notifications are refused with MARK."""
    from fildes.kernel.fds import receive_with_fds, seqpacket_pair

    if not notified:
        return forked.run(lambda: confined(program, calls, -1))
    ours, theirs = seqpacket_pair()
    with ours:
        with theirs:
            child = forked.start(lambda: confined(program, calls, theirs.fileno()), keep={theirs.fileno()})
        try:
            received = receive_with_fds(ours.fileno())
            (listener,) = received.fds
        except BaseException:
            child.kill()
            raise
        with listener:
            refuse_all(listener.fileno(), child.pipe)
        return child.result()


def refuse_all(listener: int, until_readable: int) -> None:
    import select

    while True:
        readable, _, _ = select.select([listener, until_readable], [], [], 20)
        if until_readable in readable or not readable:
            return
        notification = notify.receive(listener)
        if notification is not None:
            notify.refuse(listener, notification.id, MARK)


@pytest.mark.parametrize("name", profile.names())
def test_every_line(name: str) -> None:
    stated = profile.load(name)
    tried = probes(stated)
    assert {probe.call for probe in tried} >= {call for call in stated.calls if call in NR} - NOT_MADE.keys() - {
        "clone"
    }
    calls = [(NR[probe.call], probe.arguments) for probe in tried]
    notified = any(probe.action == seccomp.RET_USER_NOTIF for probe in tried)
    outcomes = make(profile.compile(stated), calls, notified=notified)
    allowed = [call for call, probe in zip(calls, tried, strict=True) if probe.action == seccomp.RET_ALLOW]
    native = iter(forked.run(lambda: [Prober().call(*call) for call in allowed]))
    wrong = []
    for probe, outcome in zip(tried, outcomes, strict=True):
        if probe.action == seccomp.RET_ALLOW:
            free = next(native)
            as_said = not outcome.trapped and (outcome.value == -1, outcome.error) == (free.value == -1, free.error)
        elif probe.action == seccomp.RET_TRAP:
            as_said = outcome.trapped
        elif probe.action == seccomp.RET_USER_NOTIF:
            as_said = outcome == Outcome(-1, MARK, False)
        else:
            as_said = outcome == Outcome(-1, probe.action & 0xFFFF, False)
        if not as_said:
            wrong.append((probe, outcome))
    assert not wrong


@pytest.mark.parametrize("name", profile.names())
def test_every_number_without_a_line_is_refused(name: str) -> None:
    stated = profile.load(name)
    named = {NR[call] for call in stated.calls if call in NR}
    numbers = [number for number in range(1200) if number not in named | UNFILTERED]
    outcomes = make(profile.compile(stated), [(number, (BAD,) * 6) for number in numbers], notified=False)
    last = max(NR.values())
    for number, outcome in zip(numbers, outcomes, strict=True):
        action = stated.default if number <= last else stated.beyond
        assert outcome == Outcome(-1, action & 0xFFFF, False), number


@pytest.mark.parametrize("number", sorted(UNFILTERED))
def test_what_passes_every_filter_does_nothing(number: int) -> None:
    """Outside of the kernel's own trampolines uretprobe is SIGILL and uprobe an error; before 6.14 both are refused."""

    def call() -> Outcome:
        faulthandler.disable()
        return confined(profile.compile(profile.load("serve")), [(number, (BAD,) * 6)], -1)[0]

    try:
        assert forked.run(call).value == -1
    except forked.Ended as ended:
        assert ended.status == -signal.SIGILL


@pytest.mark.skipif(libc.MACHINE != "x86_64", reason="x32 is an ABI of x86_64")
@pytest.mark.parametrize("name", profile.names())
def test_x32_numbers_are_absent(name: str) -> None:
    numbers = [0x40000000 | number for number in range(600)]
    outcomes = make(profile.compile(profile.load(name)), [(number, (BAD,) * 6) for number in numbers], notified=False)
    assert set(outcomes) == {Outcome(-1, errno.ENOSYS, False)}


@pytest.mark.skipif(libc.MACHINE != "x86_64", reason="the i386 ABI is one of x86_64")
def test_the_i386_abi_kills() -> None:
    import mmap

    def through_the_old_gate() -> int:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        process.set_no_new_privs()
        seccomp.install(profile.compile(profile.load("serve")))
        return function()

    with pytest.raises(forked.Ended) as ended:
        forked.run(through_the_old_gate)
    assert ended.value.status == -signal.SIGSYS


@pytest.mark.skipif(libc.MACHINE != "x86_64", reason="the vsyscall page is x86_64's")
def test_the_vsyscall_page_tells_no_time() -> None:
    """Its emulated calls pass the filter; where there is no such page they die."""

    def old_time() -> tuple[int, bool]:
        prober = Prober()
        function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xFFFFFFFFFF600400)
        process.set_no_new_privs()
        seccomp.install(profile.compile(profile.load("serve")))
        value = function(None)
        return value, prober._trapped > 0

    try:
        value, trapped = forked.run(old_time)
    except forked.Ended as ended:
        assert ended.status == -signal.SIGSEGV
    else:
        assert trapped or value < 0


def test_trap_outranks_notification() -> None:
    """An instance's trap must not ask the orchestrator: of two filters the stricter action wins."""
    from fildes.kernel.fds import receive_with_fds, seqpacket_pair

    load, serve = (profile.compile(profile.load(name)) for name in ("load", "serve"))
    ours, theirs = seqpacket_pair()

    def both() -> tuple[Outcome, Outcome]:
        from fildes.kernel.fds import send_with_fds

        prober = Prober()
        process.set_no_new_privs()
        with seccomp.install(load, listener=True) as listener:
            send_with_fds(theirs.fileno(), b"L", [listener.fileno()])
        first = prober.call(NR["getrandom"], (0, 0, 0))
        seccomp.install(serve)
        return first, prober.call(NR["getrandom"], (0, 0, 0))

    with ours, theirs:
        child = forked.start(both, keep={theirs.fileno()})
        (listener,) = receive_with_fds(ours.fileno()).fds
        with listener:
            refuse_all(listener.fileno(), child.pipe)
        first, second = child.result()
    assert first == Outcome(-1, MARK, False)
    assert second.trapped


def test_no_second_listener_under_load() -> None:
    """The zygote may add filters, not supervise: NEW_LISTENER is refused before the kernel would say EBUSY."""

    def tries() -> list[int]:
        process.set_no_new_privs()
        seccomp.install(profile.compile(profile.load("load")))
        errors = []
        for flags in (seccomp.SECCOMP_FILTER_FLAG_NEW_LISTENER, 2, 4, 16):
            try:
                libc.syscall("seccomp", seccomp.SECCOMP_SET_MODE_FILTER, flags, None)
            except OSError as error:
                errors.append(error.errno)
        return errors

    assert forked.run(tries) == [errno.EPERM] * 4


VARIANTS = ("", "-files", "-sqlite", "-scratch")  # by what a release is granted
NESTED = [
    *((f"load{variant}", f"{step}{variant}") for step in ("serve", "command") for variant in VARIANTS),
    *(("orchestrator", f"load{variant}") for variant in VARIANTS),
]


@pytest.mark.parametrize(("outer", "inner"), NESTED)
def test_what_an_inner_filter_allows_the_outer_one_does(outer: str, inner: str) -> None:
    """Else it would work while testing one alone, and be refused, or ask the orchestrator, when they add up."""
    below, above = profile.load(outer), profile.load(inner)
    wanted = {seccomp.RET_ALLOW} | ({seccomp.RET_USER_NOTIF} if outer == "orchestrator" else set())
    for call in above.calls.values():
        lines = [c for c in (call, below.calls.get(call.name)) if c is not None]
        conditions = [condition for line in lines for clause in line.clauses for condition in clause.conditions]
        candidates = [{0, BAD} for _ in range(6)]
        for condition in conditions:
            candidates[condition.index] |= {
                v & BAD for value in condition.values for v in (value, value + 1, value - 1)
            }
        for arguments in itertools.product(*candidates):
            if above.decide(call.name, arguments) in wanted:
                assert below.decide(call.name, arguments) == seccomp.RET_ALLOW, (call.name, arguments)


@pytest.mark.parametrize("name", ["load", "serve"])
def test_what_a_tenant_may_never_do(name: str) -> None:
    """Named one by one, so that a slip in the file is seen: none of these is allowed with any argument tried."""
    stated = profile.load(name)
    never = (
        "unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen fsmount ptrace pidfd_getfd "
        "pidfd_open pidfd_send_signal process_vm_readv process_vm_writev process_madvise kcmp kill tkill tgkill "
        "rt_sigqueueinfo rt_tgsigqueueinfo io_uring_setup io_uring_enter io_uring_register timerfd_create "
        "timerfd_settime "
        "timerfd_gettime timer_create bpf perf_event_open userfaultfd keyctl add_key request_key setuid setgid "
        "setresuid setresgid capset personality execveat clone3 socket connect bind listen accept accept4 "
        "clock_settime settimeofday adjtimex memfd_secret name_to_handle_at open_by_handle_at landlock_create_ruleset "
        "shmget msgget semget mq_open inotify_init1 fanotify_init splice tee vmsplice setrlimit sched_setaffinity "
        "setpriority ioprio_set quotactl init_module finit_module kexec_load reboot swapon acct syslog modify_ldt "
        "iopl ioperm mincore cachestat get_robust_list pkey_mprotect remap_file_pages mlock mlockall"
    )
    for call in never.split():
        assert any(call in table for table in NUMBERS.values()), call
        for value in (0, 1, 2, 9, BAD):
            action = stated.decide(call, (value,) * 6)
            assert action == seccomp.RET_TRAP or action & 0xFFFF0000 == seccomp.RET_ERRNO, call


def test_nothing_is_left_open() -> None:
    """The probes themselves leak nothing into the test process."""
    before = os.listdir("/proc/self/fd")
    make(profile.compile(profile.load("serve")), [(NR["getpid"], (0,) * 6)], notified=False)
    assert os.listdir("/proc/self/fd") == before
