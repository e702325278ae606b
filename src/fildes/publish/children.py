"""Work on hostile data in a forked child, awaited like any other: the daemon's loop goes on, and a crash is an answer.

    result = await in_child(loop, lambda report: unpack_upload(...), keep=[tar, directory], seconds=60)

The child holds the descriptors in `keep`, standard error and its way back, nothing else; it has limits on time,
memory and file sizes, and dies with the daemon. What it returns is msgpack and descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from fildes.daemon.peer import Refused
from fildes.kernel import process
from fildes.kernel.fds import Fd, Truncated, close_all, receive_with_fds, send_with_fds, seqpacket_pair
from fildes.kernel.loop import EPOLLIN, Loop, Promise
from fildes.publish.names import Rejected

MEMORY: Final = 2 << 30  # bytes of address space
FILE_SIZE: Final = 1 << 30  # bytes of one file written
_MAX_DATAGRAM: Final = 128 * 1024
_MAX_FDS: Final = 8

Report = Callable[[str, str, float], object]  # phase, text, when it began (time.monotonic)
Result = tuple[Any, Sequence[int]]  # msgpack-able, descriptors (borrowed)

DISK_FULL: Final = (
    "disk-full",
    "the disk that holds the node's state is full: nothing was changed; free some space and publish again",
)


async def in_child(
    loop: Loop,
    work: Callable[[Report], Result],
    *,
    keep: Sequence[int],
    seconds: float,
    report: Callable[[str, str, float], object] = lambda *_: None,
) -> tuple[Any, list[Fd]]:
    """What `work(report)` returns in the child: (value, descriptors; the caller owns them).

    `report(phase, text, ms)` is called here for what the child reports. Raises Refused for Rejected, a full disk,
    a child that was killed or took longer than `seconds`. Cancelling the task kills the child.
    """
    ours, theirs = seqpacket_pair()
    pid = os.fork()
    if pid == 0:
        _child(work, theirs.fileno(), {*keep, theirs.fileno()}, seconds)
    theirs.close()
    promise: Promise[tuple[Any, list[Fd]]] = Promise(loop)
    os.set_blocking(ours.fileno(), False)
    loop.watch(ours.fileno(), EPOLLIN, lambda _: _receive(ours, promise, report))
    late = Refused("timeout", f"this step took longer than {seconds:.0f} s and was ended; nothing was changed")
    timer = loop.call_later(seconds, lambda: promise.fail(late))
    try:
        return await promise
    except BaseException:
        if promise.done:  # cancelled after the answer had come
            with contextlib.suppress(Exception):
                close_all(promise.result()[1])
        raise
    finally:
        timer.cancel()
        loop.unwatch(ours.fileno())
        ours.close()
        os.kill(pid, signal.SIGKILL)  # it is our child and not reaped: the number is still its own
        os.waitpid(pid, 0)


def _receive(ours: Fd, promise: Promise[tuple[Any, list[Fd]]], report: Callable[[str, str, float], object]) -> None:
    while not promise.done:
        try:
            received = receive_with_fds(ours.fileno(), _MAX_DATAGRAM, _MAX_FDS)
        except BlockingIOError:
            return
        except (Truncated, OSError) as error:
            promise.fail(Refused("internal", f"a worker of publish failed: {error}"))
            return
        if not received.data:
            text = "a worker of publish died over this upload: it used too much memory or time; nothing was changed"
            promise.fail(Refused("worker", text))
            return
        try:
            word, *rest = msgspec.msgpack.decode(received.data, type=list[Any])
            if word == "done":
                promise.resolve((rest[0], received.fds))
                return
            close_all(received.fds)
            if word == "report":
                report(str(rest[0])[:40], str(rest[1])[:400], float(rest[2]))
            else:
                promise.fail(Refused(str(rest[0]), str(rest[1])))
        except (msgspec.MsgspecError, LookupError, ValueError, TypeError) as error:
            close_all(received.fds)
            promise.fail(Refused("internal", f"a worker of publish sent what is no answer: {error}"))


def _child(work: Callable[[Report], Result], out: int, keep: set[int], seconds: float) -> None:
    """Never returns."""
    status = 1
    try:
        gc.disable()  # owners of descriptors that only the parent has must not close ours by number
        signal.set_wakeup_fd(-1)
        process.set_parent_death_signal(signal.SIGKILL)
        process.close_all_but({2, *keep})
        _limit(seconds)

        def report(phase: str, text: str, began: float) -> None:
            ms = (time.monotonic() - began) * 1000
            send_with_fds(out, msgspec.msgpack.encode(["report", phase, text, ms]))

        try:
            value, fds = work(report)
            send_with_fds(out, msgspec.msgpack.encode(["done", value]), fds)
        except Rejected as error:
            _fail(out, "rejected", str(error))
        except Refused as error:
            _fail(out, error.code, error.text)
        except MemoryError:
            _fail(out, "worker", "the upload needs more memory than a publish may use; make it smaller")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _fail(out, *DISK_FULL)
            else:
                _fail(out, "internal", f"{type(error).__name__}: {error}")
        status = 0
    except BaseException as error:
        try:
            _fail(out, "internal", f"{type(error).__name__}: {error}")
        except OSError:
            status = 2
    finally:
        os._exit(status)


def _fail(out: int, code: str, text: str) -> None:
    send_with_fds(out, msgspec.msgpack.encode(["failed", code, text[:32768]]))


def _limit(seconds: float) -> None:
    for what, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_CPU, int(seconds) + 1),
    ):
        hard = resource.getrlimit(what)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(what, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # too large a file is an error, not a death
