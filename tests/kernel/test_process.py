"""Identity, privileges, pidfds and descriptors in bulk."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest

from fildes.kernel import process
from fildes.kernel.fds import Fd, receive_with_fds, seqpacket_pair
from fildes.testing import forked

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


def opened() -> set[int]:
    """Without the descriptor that reads the list."""
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)}


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.root
@root
def test_become_is_for_good() -> None:
    def become() -> tuple[object, ...]:
        process.become(NOBODY, NOBODY)
        refused = []
        for take_back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
            try:
                take_back()
            except PermissionError:
                refused.append(True)
        return os.getresuid(), os.getresgid(), os.getgroups(), process.capabilities(), refused

    ids = (NOBODY,) * 3
    nothing: frozenset[int] = frozenset()
    assert forked.run(become) == (ids, ids, [], (nothing,) * 3, [True] * 3)


@pytest.mark.root
@root
def test_become_keeps_what_it_is_told_and_no_more() -> None:
    def become() -> tuple[object, ...]:
        keep = frozenset({process.CAP_SYS_PTRACE})
        process.become(NOBODY, NOBODY, keep=keep)
        bounding = [n for n in range(41) if process.prctl("PR_CAPBSET_READ", process.PR_CAPBSET_READ, n)]
        held = process.capabilities()
        process.drop_capabilities()
        return held, bounding, process.capabilities()

    keep, nothing = frozenset({process.CAP_SYS_PTRACE}), frozenset()
    assert forked.run(become) == ((keep, keep, nothing), [process.CAP_SYS_PTRACE], (nothing,) * 3)


@pytest.mark.root
@root
def test_root_without_capabilities_gets_none_back_by_exec() -> None:
    def drop() -> str:
        process.drop_capabilities()
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.dup2(writer, 1)
            os.execv("/bin/grep", ["grep", "CapEff", "/proc/self/status"])
        os.wait()
        return os.read(reader, 100).decode()

    assert int(forked.run(drop).split()[1], 16) == 0


def test_close_all_but() -> None:
    def close() -> tuple[set[int], set[int]]:
        result = opened() - {0, 1, 2}  # the result's pipe: it must live
        kept = {0, 2, *(os.dup(0) for _ in range(3)), *result}
        for _ in range(5):
            os.dup(0)
        os.dup2(0, max(opened()) + 100)
        process.close_all_but(kept)
        return kept, opened()

    kept, found = forked.run(close)
    assert found == kept


def test_pidfd_of_a_child() -> None:
    child = forked.start(signal.pause)
    with process.pidfd_open(child.pid) as pidfd:
        assert not os.get_inheritable(pidfd.fileno())
        assert process.pidfd_pid(pidfd.fileno()) == process._pid_of_fdinfo(pidfd.fileno()) == child.pid
        assert process.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
        with pytest.raises(forked.Ended):
            child.result()
        assert not process.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
        assert process.pidfd_pid(pidfd.fileno()) == process._pid_of_fdinfo(pidfd.fileno()) == -1
    with pytest.raises(OSError, match="not a pidfd"):
        process._pid_of_fdinfo(0)


def test_the_kernel_attests_the_sender() -> None:
    ours, theirs = seqpacket_pair()
    with ours, theirs:
        attested = process.pass_credentials(ours.fileno())

        def send() -> None:
            os.write(theirs.fileno(), b"up")

        child = forked.start(send, keep={theirs.fileno()})
        received = receive_with_fds(ours.fileno())
        assert (received.data, received.pid, received.uid) == (b"up", child.pid, os.getuid())
        assert attested == (received.pidfd is not None)
        if received.pidfd is not None:
            assert process.pidfd_pid(received.pidfd.fileno()) in (child.pid, -1)
        received.close()
        child.result()


def test_peer_pidfd() -> None:
    one, other = socket.socketpair()
    with one, other:
        try:
            pidfd = process.peer_pidfd(one.fileno())
        except OSError as error:
            assert error.errno == errno.ENOPROTOOPT  # before 6.5
            return
        with pidfd:
            assert process.pidfd_pid(pidfd.fileno()) == os.getpid()


def test_what_stays_with_a_process() -> None:
    def settings() -> tuple[object, ...]:
        process.set_no_new_privs()
        process.set_dumpable(False)
        process.set_child_subreaper()
        process.set_name("fildes-of-a-long-name")
        with open("/proc/self/comm") as file:
            name = file.read()
        return (
            process.prctl("PR_GET_NO_NEW_PRIVS", process.PR_GET_NO_NEW_PRIVS),
            process.prctl("PR_GET_DUMPABLE", process.PR_GET_DUMPABLE),
            name,
        )

    assert forked.run(settings) == (1, 0, "fildes-of-a-lon\n")


def test_children_die_with_the_thread_that_made_them() -> None:
    reader, writer = os.pipe()
    with Fd(reader) as ours, Fd(writer) as theirs:

        def parent() -> None:
            if os.fork() == 0:
                process.set_parent_death_signal(signal.SIGKILL)
                os.write(theirs.fileno(), b"!")
                signal.pause()
            os.read(ours.fileno(), 1)

        forked.start(parent, keep={reader, writer}).result()
        theirs.close()
        assert os.read(ours.fileno(), 1) == b""  # nobody holds the other end any more


def test_errors_name_the_option() -> None:
    with pytest.raises(OSError, match=r"prctl\(PR_NONSENSE\)"):
        process.prctl("PR_NONSENSE", 12345678)
