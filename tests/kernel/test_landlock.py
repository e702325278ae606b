"""Landlock denies what it is told, to the process and all that come after it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import uuid

import pytest

from fildes.kernel import landlock, process
from fildes.testing import forked

needs_net = pytest.mark.skipif(landlock.abi() < 4, reason="Landlock for TCP needs Linux 6.7")
needs_scopes = pytest.mark.skipif(landlock.abi() < 6, reason="Landlock scopes need Linux 6.12")


def confine() -> None:
    process.set_no_new_privs()
    landlock.restrict(landlock.networks(), landlock.scopes())


def outcome(action: object) -> int:
    try:
        action()  # type: ignore[operator]
    except OSError as error:
        return error.errno or -1
    return 0


@needs_net
def test_tcp_is_denied_also_to_children_and_sockets_made_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()

        def attempts() -> list[int]:
            before = socket.socket()
            confine()
            results = [
                outcome(lambda: before.connect(address)),
                outcome(lambda: socket.create_connection(address)),
                outcome(lambda: socket.create_server(("127.0.0.1", 0))),
            ]
            pid = os.fork()
            if pid == 0:
                os._exit(outcome(lambda: socket.create_connection(address)))
            return [*results, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]

        assert forked.run(lambda: outcome(lambda: socket.create_connection(address).close())) == 0
        assert forked.run(attempts) == [errno.EACCES] * 4


@needs_scopes
def test_signals_reach_only_inward() -> None:
    def attempts() -> list[int]:
        outside = os.getppid()
        confine()
        pid = os.fork()
        if pid == 0:
            signal.pause()
        results = [outcome(lambda: os.kill(outside, 0)), outcome(lambda: os.kill(pid, signal.SIGKILL))]
        os.waitpid(pid, 0)
        return results

    assert forked.run(attempts) == [errno.EPERM, 0]


@needs_scopes
def test_abstract_sockets_of_others_are_out_of_reach() -> None:
    name = f"\0fildes-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()

        def attempts() -> list[int]:
            confine()
            pair = socket.socketpair()
            return [
                outcome(lambda: socket.socket(socket.AF_UNIX).connect(name)),
                outcome(lambda: pair[0].send(b"x")),
            ]

        assert forked.run(attempts) == [errno.EPERM, 0]


def test_nothing_asked_nothing_denied() -> None:
    landlock.restrict(0, 0)


@needs_net
def test_an_unknown_bit_is_an_error_not_a_silence() -> None:
    def ask() -> None:
        process.set_no_new_privs()
        landlock.restrict(1 << 40, 0)

    with pytest.raises(forked.Raised, match="landlock_create_ruleset"):
        forked.run(ask)
