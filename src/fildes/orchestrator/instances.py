"""One running instance: its handle, its pidfd, and what it says of itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from fildes.daemon.store import Store
from fildes.kernel import process
from fildes.kernel.cgroups import Cgroup
from fildes.kernel.fds import Fd, Truncated, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN, Loop, Promise, Timer
from fildes.orchestrator import life
from fildes.orchestrator.life import Said, Stage

BLOB: Final = 1000  # bytes; init keeps 1 KiB
WAITS: Final = "waits"  # among what it holds, in the store: it was forked ahead, and nobody needs it yet
FIRST_STEPS: Final = 0.004  # seconds from the order on, in which nobody listens to what an instance says
_BURST: Final = 64  # words at once
_RATE: Final = 200.0  # and a second; an instance has no use for half as many, and one that floods us ends


def instance_key(release: str, instance: str) -> str:
    """Its place in the fd store."""
    return f"instance.{release}.{instance}"


def never_started(handle: int, blob: bytes) -> bool:
    """Whether nobody holds the other end of a handle, or one that waits, and nobody ever said a word on it: a kit that
    was in stock."""
    try:
        with receive_with_fds(handle, 64, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) as word:
            return not word.data
    except BlockingIOError:
        return WAITS in json.loads(blob)
    except Truncated:
        return False
    except ConnectionResetError:
        return True


def held_as_blob(held: dict[str, str]) -> bytes:
    """For the fd store; what would be too long for it is forgotten, and shown as unexplained after a restart."""
    blob = json.dumps(held, ensure_ascii=False, separators=(",", ":")).encode()
    return blob if len(blob) <= BLOB else json.dumps({name: held[name] for name in (WAITS,) if name in held}).encode()


class Instance:
    """Owns the handle and, once the kernel has attested who says that it is up, a pidfd.

    `on_word(said)` is called when it has told how it is, `on_end()` when it is gone.
    """

    def __init__(
        self, loop: Loop, store: Store, release: str, name: str, handle: Fd, zygote_pid: int, cgroup: Cgroup | None
    ) -> None:
        self._loop, self._store, self._handle = loop, store, handle
        self._key = instance_key(release, name)
        self._zygote_pid = zygote_pid
        self.name = name
        self.cgroup = cgroup
        self.pid = -1
        self.stage = Stage.STARTING
        self.held: dict[str, str] = {}
        self.started = time.time()
        self.timeline = {"ordered": time.monotonic()}
        self.ready: Promise[bool] = Promise(loop)
        self.over: Promise[None] = Promise(loop)
        self.idle = False  # it said that it ends because nobody needs it
        self.stopping = False  # it was told to end
        self.status: int | None = None  # how it ended, waitpid(2), where its parent told
        self.unexplained: Timer | None = None  # it is gone, and its parent has not told how
        self._pidfd: Fd | None = None
        self.on_word: Callable[[Said], object] = lambda _: None
        self.on_end: Callable[[], object] = lambda: None
        self._words, self._since = float(_BURST), loop.time()
        # Not while it takes its first steps: to be told of them would take the CPU from it, a third of a start.
        self._deaf = True
        self._listening = loop.call_later(FIRST_STEPS, self._listen)

    def hear(self) -> None:
        """Listen from now on: somebody asks who it is."""
        if self._deaf and not self._handle.closed:
            self._listening.cancel()
            self._listen()
            self._on_handle(0)

    def _listen(self) -> None:
        self._deaf = False
        self._loop.watch(self._handle.fileno(), EPOLLIN, self._on_handle)

    def deposit(self) -> None:
        self._store.deposit(
            self._key, held_as_blob(self.held), [self._handle, *([self._pidfd] if self._pidfd is not None else [])]
        )

    def forget(self) -> None:
        """A successor of this daemon need not know of it: it ends when its handle does."""
        self._store.drop(self._key)

    def adopt(self, pidfd: Fd | None) -> None:
        """Take up one that lived through a restart of this daemon; what it said last is asked again."""
        if pidfd is not None:
            self._hold(pidfd)
            self.stage = Stage.OPEN
            self.ready.resolve(True)
            self._say(b"?")

    def drain(self) -> None:
        """Tell it to finish what it has; it ends by itself, at the latest after its time limit."""
        self.stopping = True
        self.stage = life.after(self.stage, Said.TOLD)
        self._say(b"D")

    def kill(self) -> None:
        """At once; nothing if it is gone or the kernel has not attested it yet."""
        self.hear()
        if self._pidfd is not None and not self._pidfd.closed:
            process.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Raises ProcessLookupError."""
        if self._pidfd is not None and not self._pidfd.closed:
            process.pidfd_send_signal(self._pidfd.fileno(), number)

    def _say(self, word: bytes) -> None:
        try:
            send_with_fds(self._handle.fileno(), word)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return

    def close(self) -> None:
        self.forget()
        self.on_word = lambda _: None
        self.on_end = lambda: None
        if self.unexplained is not None:
            self.unexplained.cancel()
        self._listening.cancel()
        self._loop.unwatch(self._handle.fileno())
        self._handle.close()
        if self._pidfd is not None:
            self._loop.unwatch(self._pidfd.fileno())
            self._pidfd.close()
        self.ready.resolve(False)
        self.over.resolve(None)

    def _on_handle(self, _: int) -> None:
        if self._floods():
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
        else:
            self._heard(word)
        if pidfd is not None:
            pidfd.close()

    def _floods(self) -> bool:
        now = self._loop.time()
        self._words = min(_BURST, self._words + (now - self._since) * _RATE) - 1
        self._since = now
        return self._words < 0

    def _heard(self, word: bytes) -> None:
        try:
            said = Said(word.decode("ascii", "replace"))
        except ValueError:
            return
        if said is Said.READY:
            self.timeline.setdefault("ready", time.monotonic())
            self.ready.resolve(True)
        self.idle = said is Said.IDLE
        self.stage = life.after(self.stage, said)
        self.on_word(said)

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
