"""Filters and their supervisor on the real kernel (seccomp(2), seccomp_unotify(2))."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fildes.kernel import libc, notify, process, seccomp
from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds, seqpacket_pair
from fildes.kernel.seccomp import Clause, Condition
from fildes.testing import forked

PIDFD_OPEN, GETPPID, UNAME = (libc.NR[name] for name in ("pidfd_open", "getppid", "uname"))
NOTIFY = (Clause(seccomp.RET_USER_NOTIF),)


def allow_all_but(rules: dict[int, tuple[Clause, ...]]) -> bytes:
    return seccomp.assemble(rules, seccomp.RET_ALLOW)


@contextmanager
def supervised(program: bytes, function: Callable[[], object]) -> Iterator[tuple[forked.Child, int]]:
    """`function()` in a child under `program`, and its listener."""
    ours, theirs = seqpacket_pair()

    def confined() -> object:
        process.set_no_new_privs()
        with seccomp.install(program, listener=True) as listener:
            send_with_fds(theirs.fileno(), b"L", [listener.fileno()])
        return function()

    with ours:
        with theirs:
            child = forked.start(confined, keep={theirs.fileno()})
        (listener,) = receive_with_fds(ours.fileno()).fds
    with listener:
        yield child, listener.fileno()


def next_call(listener: int) -> notify.Notification:
    assert select.select([listener], [], [], 10)[0]
    notification = notify.receive(listener)
    assert notification is not None
    return notification


def test_proceed_refuse_answer() -> None:
    def ask() -> list[int | None]:
        answers: list[int | None] = []
        for _ in range(3):
            try:
                answers.append(libc.syscall("getppid"))
            except OSError as error:
                answers.append(-error.errno)
        return answers

    with supervised(allow_all_but({GETPPID: NOTIFY}), ask) as (child, listener):
        notify.set_sync_wake_up(listener)
        first = next_call(listener)
        assert (first.nr, first.pid) == (GETPPID, child.pid)
        assert notify.alive(listener, first.id)
        assert not notify.waiting(listener)
        assert notify.proceed(listener, first.id)
        assert not notify.alive(listener, first.id)
        assert notify.refuse(listener, next_call(listener).id, errno.ENODATA)
        assert notify.answer(listener, next_call(listener).id, 4711)
        assert child.result() == [os.getpid(), -errno.ENODATA, 4711]


def test_arguments_arrive_whole() -> None:
    def ask() -> None:
        libc.syscall("getppid", 1, 2**63 + 5, -1, 0, 5, 6)

    with supervised(allow_all_but({GETPPID: NOTIFY}), ask) as (child, listener):
        notification = next_call(listener)
        assert notification.args == (1, 2**63 + 5, 2**64 - 1, 0, 5, 6)
        notify.proceed(listener, notification.id)
        child.result()


def test_answer_with_a_descriptor() -> None:
    def ask() -> tuple[bytes, bool]:
        with Fd(libc.syscall("pidfd_open", 1, 0)) as given:
            return os.read(given.fileno(), 10), os.get_inheritable(given.fileno())

    reader, writer = os.pipe()
    with Fd(reader) as source, Fd(writer) as sink:
        os.write(sink.fileno(), b"granted")
        with supervised(allow_all_but({PIDFD_OPEN: NOTIFY}), ask) as (child, listener):
            assert notify.answer_with_fd(listener, next_call(listener).id, source.fileno())
            assert child.result() == (b"granted", False)


def test_a_target_that_dies_is_an_answer_not_an_error() -> None:
    with supervised(allow_all_but({GETPPID: NOTIFY}), lambda: libc.syscall("getppid")) as (child, listener):
        notification = next_call(listener)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(forked.Ended):
            child.result()
        assert not notify.alive(listener, notification.id)
        assert not notify.proceed(listener, notification.id)
        assert not notify.refuse(listener, notification.id, errno.EPERM)
        assert not notify.answer_with_fd(listener, notification.id, 0)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert poll.poll(1000)[0][1] & select.POLLHUP


def test_a_target_that_dies_before_it_is_received() -> None:
    with supervised(allow_all_but({GETPPID: NOTIFY}), lambda: libc.syscall("getppid")) as (child, listener):
        assert select.select([listener], [], [], 10)[0]
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(forked.Ended):
            child.result()
        assert not notify.waiting(listener)
        assert notify.receive(listener) is None


def test_a_listener_outlives_its_supervisor() -> None:
    """A parked listener, taken over by another process, answers the call that waited: what the fd store is for."""
    with supervised(allow_all_but({GETPPID: NOTIFY}), lambda: libc.syscall("getppid")) as (child, listener):

        def successor() -> bool:
            return notify.answer(listener, next_call(listener).id, 7)

        assert forked.run(successor, keep={listener})
        assert child.result() == 7


def test_one_listener_a_process() -> None:
    def second() -> int:
        try:
            seccomp.install(allow_all_but({UNAME: NOTIFY}), listener=True)
        except OSError as error:
            return error.errno
        return 0

    with supervised(allow_all_but({GETPPID: NOTIFY}), second) as (child, _):
        assert child.result() == errno.EBUSY


def test_filters_only_narrow() -> None:
    def narrow() -> int:
        process.set_no_new_privs()
        seccomp.install(allow_all_but({GETPPID: (Clause(seccomp.return_errno(errno.EACCES)),)}))
        seccomp.install(seccomp.assemble({GETPPID: (Clause(seccomp.RET_ALLOW),)}, seccomp.RET_ALLOW))
        try:
            return libc.syscall("getppid")
        except OSError as error:
            return -error.errno

    assert forked.run(narrow) == -errno.EACCES


def test_conditions_on_ints_look_at_32_bits_and_wide_ones_at_64() -> None:
    def ask() -> list[bool]:
        narrow = Clause(seccomp.return_errno(errno.EDOM), (Condition(0, "==", (5,)),))
        wide = Clause(seccomp.return_errno(errno.ERANGE), (Condition(1, "==", (5,), wide=True),))
        process.set_no_new_privs()
        seccomp.install(allow_all_but({GETPPID: (narrow, wide)}))
        answers = []
        for arguments in ((5, 0), (2**32 + 5, 0), (0, 5), (0, 2**32 + 5)):
            try:
                libc.syscall("getppid", *arguments)
                answers.append(0)
            except OSError as error:
                answers.append(error.errno)
        return answers

    assert forked.run(ask) == [errno.EDOM, errno.EDOM, errno.ERANGE, 0]


def test_a_filter_of_nonsense_is_refused() -> None:
    def nonsense() -> list[int]:
        process.set_no_new_privs()
        errors = []
        for listener in (False, True):
            try:
                seccomp.install(b"\x06\x00\x00", listener=listener)
            except OSError as error:
                errors.append(error.errno)
        return errors

    assert forked.run(nonsense) == [errno.EINVAL] * 2


def test_every_thread() -> None:
    import threading

    def threads() -> int:
        begin, answers = threading.Event(), []

        def other() -> None:
            begin.wait()
            try:
                answers.append(libc.syscall("getppid"))
            except OSError as error:
                answers.append(-error.errno)

        thread = threading.Thread(target=other)
        thread.start()
        process.set_no_new_privs()
        seccomp.install(allow_all_but({GETPPID: (Clause(seccomp.return_errno(errno.EDOM)),)}), every_thread=True)
        begin.set()
        thread.join()
        return answers[0]

    assert forked.run(threads) == -errno.EDOM


def test_unknown_calls_say_so() -> None:
    with pytest.raises(OSError, match="has no such call") as raised:
        libc.syscall("no_such_call")
    assert raised.value.errno == errno.ENOSYS
    with pytest.raises(OSError, match="close_range"):
        libc.syscall("close_range", 5, 4, 0)
