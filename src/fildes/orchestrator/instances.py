"""One running instance, and the kit of descriptors that the next one will get.

A kit is put together ahead of the request that needs it, so that a start is one message to the zygote.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fildes.capabilities.kinds import KINDS
from fildes.daemon.peer import Peer
from fildes.daemon.store import Store
from fildes.kernel import fds, process
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import (
    Fd,
    Truncated,
    close_all,
    receive_with_fds,
    send_with_fds,
    seqpacket_pair,
    set_blocking,
)
from fildes.kernel.loop import EPOLLIN, Loop, Promise
from fildes.wire import bus, drivers
from fildes.wire.catalogue import Release

BLOB: Final = 1000  # bytes; init keeps 1 KiB
_PATIENCE: Final = 32  # words; an instance has three to say, and one that floods us ends
_WHY: Final = {
    "handle": "runtime: handle, to the orchestrator",
    "channel": "runtime: channel, to the bus",
}


@dataclass
class Kit:
    """Owned by whoever holds it until the start; `ours` is the orchestrator's end of the handle."""

    instance: str
    ours: Fd
    theirs: Fd
    channel: Fd
    grants: list[tuple[str, Fd]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    cgroup: Cgroup | None = None
    entrances: list[Fd] = field(default_factory=list)  # by which the instance puts itself into the cgroup

    def close(self) -> None:
        close_all([self.ours, *self.given])
        if self.cgroup is not None:
            self.cgroup.remove()  # nobody was in it

    @property
    def given(self) -> list[Fd]:
        return [self.theirs, self.channel, *self.entrances, *(fd for _, fd in self.grants)]

    def named(self) -> list[tuple[str, int]]:
        """What rides with the start order."""
        return [
            ("handle", self.theirs.fileno()),
            ("channel", self.channel.fileno()),
            *(("cgroup", fd.fileno()) for fd in self.entrances),
            *((f"grant:{name}", fd.fileno()) for name, fd in self.grants),
        ]


async def prepare(peer: Peer, release: Release) -> Kit:
    """Ask the bus for everything that the release's grants say an instance starts with. Raises Refused."""
    instance = secrets.token_hex(4)
    grants: list[tuple[str, Fd]] = []
    channel = await peer.ask("bus.channel", bus.Channel(release.id, instance, release.service, release.grants))
    try:
        for grant in release.grants:
            kind = KINDS[grant.kind]
            if kind.at_start:
                opening = drivers.Open(grant.kind, grant.name, dict(grant.options), release.id, release.service)
                answer = await peer.ask(f"{kind.driver}.open", opening, reply=drivers.Opened)
                grants += [(grant.name, fd) for fd in answer.fds]
    except BaseException:
        close_all([*channel.fds, *(fd for _, fd in grants)])
        raise
    ours, theirs = seqpacket_pair()
    process.pass_credentials(ours.fileno())
    set_blocking(ours.fileno(), False)
    set_blocking(theirs.fileno(), False)
    kit = Kit(instance, ours, theirs, channel.fds[0], grants)
    kit.held = {fds.name(fd): _WHY.get(what, f"grant {what.removeprefix('grant:')}") for what, fd in kit.named()}
    return kit


def instance_key(release: str, instance: str) -> str:
    """Its place in the fd store."""
    return f"instance.{release}.{instance}"


def never_started(handle: int) -> bool:
    """Whether nobody holds the other end of a handle, and nobody ever said a word on it: a kit that was in stock."""
    try:
        with receive_with_fds(handle, 64, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) as word:
            return not word.data
    except (BlockingIOError, Truncated):
        return False
    except ConnectionResetError:
        return True


def held_as_blob(held: dict[str, str]) -> bytes:
    """For the fd store; what would be too long for it is forgotten, and shown as unexplained after a restart."""
    blob = json.dumps(held, ensure_ascii=False, separators=(",", ":")).encode()
    return blob if len(blob) <= BLOB else b"{}"


class Instance:
    """Owns the handle and, once the kernel has attested who says that it is up, a pidfd."""

    def __init__(
        self, loop: Loop, store: Store, release: str, name: str, handle: Fd, zygote_pid: int, cgroup: Cgroup | None
    ) -> None:
        self._loop, self._store, self._handle = loop, store, handle
        self._key = instance_key(release, name)
        self._zygote_pid = zygote_pid
        self.name = name
        self.cgroup = cgroup
        self.pid = -1
        self.held: dict[str, str] = {}
        self.started = time.time()
        self.timeline = {"ordered": time.monotonic()}
        self.ready: Promise[bool] = Promise(loop)
        self.over: Promise[None] = Promise(loop)
        self.idle = False  # it said that it ends because nobody needs it
        self.stopping = False  # it was told to end
        self._pidfd: Fd | None = None
        self.on_end: Callable[[], object] = lambda: None
        self._patience = _PATIENCE
        loop.watch(handle.fileno(), EPOLLIN, self._on_handle)

    def deposit(self) -> None:
        self._store.deposit(
            self._key, held_as_blob(self.held), [self._handle, *([self._pidfd] if self._pidfd is not None else [])]
        )

    def forget(self) -> None:
        """A successor of this daemon need not know of it: it ends when its handle does."""
        self._store.drop(self._key)

    def adopt(self, pidfd: Fd | None) -> None:
        """Take up one that lived through a restart of this daemon."""
        if pidfd is not None:
            self._hold(pidfd)

    def drain(self) -> None:
        """Tell it to finish what it has; it ends by itself, at the latest after its time limit."""
        self.stopping = True
        self._say(b"D")

    def kill(self) -> None:
        """At once; nothing if it is gone or the kernel has not attested it yet."""
        if self._pidfd is not None and not self._pidfd.closed:
            process.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)

    def _say(self, word: bytes) -> None:
        try:
            send_with_fds(self._handle.fileno(), word)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return

    def close(self) -> None:
        self.forget()
        self._loop.unwatch(self._handle.fileno())
        self._handle.close()
        if self._pidfd is not None:
            self._loop.unwatch(self._pidfd.fileno())
            self._pidfd.close()
        self.ready.resolve(False)
        self.over.resolve(None)

    def _on_handle(self, _: int) -> None:
        self._patience -= 1
        if self._patience < 0:
            self._loop.unwatch(self._handle.fileno())
            self.kill()
            if self._pidfd is None:
                self.on_end()
            return
        try:
            received = receive_with_fds(self._handle.fileno(), 64, 1)
        except (BlockingIOError, Truncated):
            return
        except ConnectionResetError:
            received = None
        if received is None or not received.data:
            self._loop.unwatch(self._handle.fileno())
            if self._pidfd is None:  # it ended before it said a word
                self.on_end()
            return
        word, pidfd, received.pidfd = received.data, received.pidfd, None
        received.close()
        if word == b"U" and self._pidfd is None and self._is_ours(received.pid):
            self._hold(pidfd if pidfd is not None else process.pidfd_open(received.pid))
            pidfd = None
            self.timeline["up"] = time.monotonic()
            self.deposit()
        elif word == b"R":
            self.timeline["ready"] = time.monotonic()
            self.ready.resolve(True)
        elif word == b"I":
            self.idle = True
        if pidfd is not None:
            pidfd.close()

    def _is_ours(self, pid: int) -> bool:
        """A zygote may forge the word, not who sends it: a process of its PID namespace, whatever it says."""
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self._zygote_pid}/ns/pid")
        except OSError:
            return False

    def _hold(self, pidfd: Fd) -> None:
        self._pidfd = pidfd
        self.pid = process.pidfd_pid(pidfd.fileno())
        self._loop.watch(pidfd.fileno(), EPOLLIN, self._on_exit)

    def _on_exit(self, _: int) -> None:
        if self._pidfd is not None:
            self._loop.unwatch(self._pidfd.fileno())
        self.on_end()
