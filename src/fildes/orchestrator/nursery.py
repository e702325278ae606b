"""The zygote of one release: loaded, one at a time, kept, and taken away."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Any

from fildes.daemon.peer import Peer, Refused
from fildes.daemon.store import Deposit, Store
from fildes.kernel import process
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Loop, Task
from fildes.orchestrator import loading
from fildes.orchestrator.resources import Resources
from fildes.orchestrator.zygotes import Zygote
from fildes.wire.catalogue import Release


class Nursery:
    """`loaded()`: there is a zygote; `failed(why)`: there is none; `gone()`, `exited(message)`: of the one there is."""

    def __init__(
        self,
        loop: Loop,
        peer: Peer,
        store: Store,
        resources: Resources,
        release: Release,
        *,
        loaded: Callable[[], object],
        failed: Callable[[str], object],
        gone: Callable[[], object],
        exited: Callable[[dict[str, Any]], object],
    ) -> None:
        self._loop, self._peer, self._store, self._resources = loop, peer, store, resources
        self._release = release
        self._loaded, self._failed, self._gone, self._exited = loaded, failed, gone, exited
        self.zygote: Zygote | None = None
        self._loading: Task[None] | None = None
        self._turn: object = None  # whose loading is wanted
        self._born: Fd | None = None  # the pidfd of what is loading
        self._oom_before = 0
        self._aside = False

    # — loading —

    def launch(self) -> None:
        self._turn = object()
        self._loading = self._loop.spawn(self._load(self._turn, self._loading))

    async def settled(self) -> None:
        """Wait until what is loading has loaded, or failed."""
        if self._loading is not None:
            await self._loading

    def give_up(self) -> None:
        """Nobody wants what is loading any more: it ends now."""
        self._turn = None
        if self._born is not None:
            with contextlib.suppress(ProcessLookupError):
                process.pidfd_send_signal(self._born.fileno(), signal.SIGKILL)

    async def _load(self, turn: object, before: Task[None] | None) -> None:
        """One that was given up meanwhile takes away what it made before the next begins."""
        if before is not None:
            await before
        if self._turn is not turn:
            return

        def born(pidfd: Fd) -> None:
            self._born = pidfd.dup()
            if self._turn is not turn:
                process.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)

        try:
            zygote = await loading.load(self._loop, self._peer, self._store, self._resources, self._release, born)
            if self._turn is not turn or self._aside:
                self._resources.end(zygote)
                return
            try:
                loading.deposit(self._store, self._release, zygote)
            except BaseException:
                self._resources.end(zygote)
                raise
        except Exception as error:  # also one of ours that a program provoked: the release must not stay half-loaded
            if not isinstance(error, Refused | OSError):
                self._loop.on_error(error)
            if self._turn is turn:
                self._failed(f"{self._release.service} did not load: {error}")
            return
        finally:
            if self._born is not None:
                self._born.close()
                self._born = None
        self._turn = None
        self._take_up(zygote)
        self._loaded()

    def adopt(self, deposit: Deposit, threads: int) -> None:
        """Take up the one that a forerunner left."""
        pidfd, control, listener = deposit.fds
        cgroup = self._resources.cgroup_of(self._release)
        zygote = Zygote.adopt(self._loop, control, pidfd, listener, cgroup, threads, self._resources.exits)
        loading.remember(zygote, deposit.blob)
        self._take_up(zygote)

    def _take_up(self, zygote: Zygote) -> None:
        self.zygote = zygote
        self.new_oom_kills()
        zygote.on_exited = self._exited
        zygote.on_gone = self._gone

    # — what it is asked —

    @property
    def threads(self) -> int:
        """Tasks that the program had when it had loaded: above one it can't be forked."""
        return self.zygote.threads if self.zygote is not None else 1

    def new_oom_kills(self) -> int:
        """How many the release has had since this was asked last."""
        if self.zygote is None or self.zygote.cgroup is None:
            return 0
        before, self._oom_before = self._oom_before, self.zygote.cgroup.oom_kills()
        return self._oom_before - before

    # — ending —

    def drop(self) -> None:
        """It ends, at once."""
        self.give_up()
        if self.zygote is not None:
            zygote, self.zygote = self.zygote, None
            zygote.on_gone = lambda: None  # what is said of it later is not about the next one
            if self._aside:
                self._store.drop(loading.draining_key(self._release.id, zygote.pid))
            else:
                self._store.drop(loading.zygote_key(self._release, zygote))
            self._resources.end(zygote)

    def step_aside(self, deadline: float) -> None:
        """Another one of the same release has its cgroup and its place in the store from now on."""
        self._aside = True
        if self.zygote is not None:
            with contextlib.suppress(Refused):  # it has ended
                key = loading.draining_key(self._release.id, self.zygote.pid)
                self._store.deposit(key, b"%.3f" % deadline, self.zygote.descriptors)
            self._store.drop(loading.zygote_key(self._release, self.zygote))
            self.zygote.cgroup = None
