"""The publish process's side of the cell: jobs as coroutines.

    resolver = Resolver(loop, peer, control)
    lock = await resolver.lock(job, key, lines)

The cell's network is its loopback. While uv runs, the socket on which it looks for its proxy is lent to the net
driver, which serves it; if that is killed, it is asked again, and what connected meanwhile waited in the backlog.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from fildes.daemon.peer import Peer, Refused
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, close_all, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN, Loop, Promise
from fildes.publish import runner
from fildes.publish.members import NOTHING_OWN, Own
from fildes.wire.publish import Index

SECONDS: Final = 600.0
MAX_LOCK: Final = 4 << 20
_LOANS: Final = 8  # times that a lost proxy is asked for again


class _Job:
    def __init__(self, loop: Loop) -> None:
        self.promise: Promise[tuple[str, list[Fd]]] = Promise(loop)
        self.listener: Fd | None = None
        self.lease: Fd | None = None
        self.loans = 0


class Resolver:
    """`control` is the end of the socket to the runner; it is owned. `on_end` is called when the runner is gone."""

    def __init__(self, loop: Loop, peer: Peer, control: Fd, on_end: Callable[[], object]) -> None:
        self._loop, self._peer, self._control, self._on_end = loop, peer, control, on_end
        self._jobs: dict[str, _Job] = {}
        os.set_blocking(control.fileno(), False)
        loop.watch(control.fileno(), EPOLLIN, self._receive)

    async def lock(self, job: str, key: str, source: str, lines: bytes, before: bytes = b"") -> bytes:
        """The hashed lock for these requirement lines; versions of the lock `before` stay where they can.
        Raises Refused."""
        given = [memfd.sealed("requirements", lines), memfd.sealed("before", before)]
        _, fds = await self._run(["lock", job, key, source], *given)
        try:
            if len(fds) != 1 or not 0 < os.fstat(fds[0].fileno()).st_size <= MAX_LOCK:
                raise Refused("internal", "the resolver made no lock; see: fildes doctor")
            return os.pread(fds[0].fileno(), MAX_LOCK, 0)
        finally:
            close_all(fds)

    async def install(self, job: str, key: str, site: str, source: str, lock: bytes) -> str:
        """Have what the lock says installed as `site`, if it is not; in words what was done. `source` is the file that
        an error is blamed on. Raises Refused."""
        text, fds = await self._run(["install", job, key, site, source], memfd.sealed("lock", lock))
        close_all(fds)
        return text

    async def pack(
        self, job: str, site: str, index: Fd, contents: Fd, *, byte_code: bool, own: Own = NOTHING_OWN
    ) -> tuple[str, Fd]:
        """Pack a tree, given by its index and contents (consumed), with what was installed as `site` ("": nothing):
        what the pack holds, in words, and its file. Raises Refused."""
        text, fds = await self._run(["pack", job, byte_code, site, own.roots, own.metadata], index, contents)
        if len(fds) != 1:
            close_all(fds)
            raise Refused("internal", "the packer made no file; see: fildes doctor")
        return text, fds[0]

    async def clean(self, job: str) -> int:
        """Throw away all caches; how many bytes that were. Raises Refused."""
        text, fds = await self._run(["clean", job])
        close_all(fds)
        return int(text) if text.isdecimal() else 0

    def sweep(self, job: str) -> None:
        """End what runs for `job`, and remove its directory."""
        self._send(["sweep", job])

    async def _run(self, message: list[Any], *given: Fd) -> tuple[str, list[Fd]]:
        name: str = message[1]
        job = self._jobs[name] = _Job(self._loop)
        late = Refused("timeout", f"this step took longer than {SECONDS:.0f} s and was ended; nothing was changed")
        timer = self._loop.call_later(SECONDS, lambda: job.promise.fail(late))
        try:
            self._send(message, *given)
            return await job.promise
        except BaseException:
            self._send(["cancel", name])
            raise
        finally:
            timer.cancel()
            del self._jobs[name]
            self._end_loan(job)
            if job.listener is not None:
                job.listener.close()

    def _send(self, message: list[Any], *given: Fd) -> None:
        try:
            send_with_fds(self._control.fileno(), msgspec.msgpack.encode(message), [fd.fileno() for fd in given])
        except OSError as error:
            raise Refused("busy", f"the resolver takes no more jobs ({error.strerror}); publish again") from error
        finally:
            close_all(given)

    def _receive(self, _: int) -> None:
        received = receive_with_fds(self._control.fileno(), runner.MAX_DATAGRAM)
        if not received.data:
            self._loop.unwatch(self._control.fileno())
            self._on_end()
            return
        fds = received.fds
        try:
            # The runner shares its uid with uv: what it says is looked at as if uv had said it.
            word, name, *rest = msgspec.msgpack.decode(received.data, type=list[Any])
            job = self._jobs.get(name)
            if job is None or job.promise.done:
                return
            if word == "listening" and len(fds) == 1 and job.listener is None:
                job.listener = fds.pop()
                self._loop.spawn(self._lend(job))
            elif word == "ended":
                ok, text = rest
                if ok is True:
                    job.promise.resolve((str(text), fds))
                    fds = []
                else:
                    job.promise.fail(Refused("resolve", str(text)))
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            self._loop.on_error(error)
        finally:
            close_all(fds)

    async def _lend(self, job: _Job) -> None:
        if job.listener is None:
            return
        job.loans += 1
        try:
            answer = await self._peer.ask("net.index", Index(), [job.listener.dup()], reply=Index)
        except Refused as refused:
            job.promise.fail(Refused(refused.code, f"the way to the package index is closed: {refused.text}"))
            return
        if job.promise.done or len(answer.fds) != 1:
            close_all(answer.fds)
            return
        job.lease = answer.fds[0]
        self._loop.watch(job.lease.fileno(), EPOLLIN, lambda _: self._lost(job))

    def _lost(self, job: _Job) -> None:
        self._end_loan(job)
        if not job.promise.done and job.loans < _LOANS:
            self._loop.spawn(self._lend(job))

    def _end_loan(self, job: _Job) -> None:
        if job.lease is not None:
            self._loop.unwatch(job.lease.fileno())
            job.lease.close()
            job.lease = None
