"""init executes itself anew: the same pid, the same children, the same descriptors, the code that is on disk now.

First a child does everything that the new image will do, short of acting on it. Only if that ends well does init take
the step from which there is no way back: as PID 1 its death would be the node's.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from fildes.init import image
from fildes.init import ledger as ledgers
from fildes.init.channel import say
from fildes.init.manager import UPGRADED
from fildes.init.policy import describe_status
from fildes.kernel import memfd

if TYPE_CHECKING:
    from fildes.init.supervisor import Supervisor

CHECK_TIME: Final = 10.0  # seconds


def execute(ledger: ledgers.Ledger, *, check: bool = False) -> NoReturn:
    """execve(2) of init with `ledger` and every descriptor that it names. Returns only by raising."""
    with memfd.sealed("fildes-ledger", ledgers.encode(ledger)) as sealed:
        words = [*(["--check"] if check else []), str(sealed.fileno())]
        numbers = set() if check else ledger.numbers()  # a check only reads what the ledger says
        image.execute("init", words, {*numbers, sealed.fileno()})


class Upgrade:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._checking = 0  # pid

    def begin(self) -> None:
        """Check the code on disk; go on in `checked`."""
        supervisor = self._supervisor
        if supervisor.closing or self._checking or not supervisor.served:
            say("not upgraded: this node is closing, starting, or being upgraded already")
            return
        say("upgrading: checking the code on disk")
        pid = os.fork()
        if pid == 0:
            _check(supervisor.to_ledger())
        self._checking = pid
        supervisor.loop.call_later(CHECK_TIME, lambda: self._too_late(pid))

    def checked(self, pid: int, status: int) -> bool:
        """`pid` was reaped; whether it was the check. If that went well, this does not return."""
        if not pid or pid != self._checking:
            return False
        self._checking = 0
        if status:
            say(f"not upgraded: the code on disk failed its check, which ended {describe_status(status)}; see above")
        elif not self._supervisor.closing:
            try:
                execute(self._supervisor.to_ledger())
            except OSError as error:
                say(f"not upgraded: {sys.executable} could not be executed: {error.strerror}")
        self._supervisor.tell_keeper(UPGRADED)
        return True

    def _too_late(self, pid: int) -> None:
        if self._checking == pid:
            os.kill(pid, signal.SIGKILL)


def _check(ledger: ledgers.Ledger) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        execute(ledger, check=True)
    finally:
        os._exit(1)
