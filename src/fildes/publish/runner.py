"""The process inside the cell: takes jobs from the publish process, runs uv and the compiler, gives back descriptors.

    jobs in (one datagram, msgpack)                          beside it
    ["lock", id, key, source]                                sealed memfds: checked requirement lines, a lock before
    ["install", id, key, site, source]                       sealed memfd: the lock
    ["pack", id, byte_code, site, roots, metadata]           the tree's index (sealed memfd), its contents
    ["cancel", id] ["sweep", id]                             —
    ["clean", id]                                            —

    answers
    ["listening", id]                                        the TCP socket on which uv will look for its proxy
    ["ended", id, ok, text]                                  lock: the file · install: — · pack: the file

Every job is a process of its own in a session of its own, ended as one. `key` names a cache that jobs of one owner
share; `source` is the file that errors speak of; `id` is the job's directory below the scratch, and what it leaves
there `sweep` removes. `site` names what was installed for one owner and one lock, byte code included: it stays, so that
a change of the sources alone installs and compiles nothing else. "" is none.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Final, cast

import msgspec

from fildes.kernel import memfd, process
from fildes.kernel.fds import Fd, Received, close_all, receive_with_fds, send_with_fds
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.pack import writer
from fildes.pack.collect import collect
from fildes.pack.format import PackError
from fildes.publish import compress, uv
from fildes.publish.cell import Place
from fildes.publish.lockfile import LOCK
from fildes.publish.members import DEPS, Own, encode_byte_code, installed, program, sources
from fildes.publish.names import Rejected
from fildes.publish.tree import decode

MAX_DATAGRAM: Final = 64 * 1024
MAX_TEXT: Final = 16 * 1024
JOB_SECONDS: Final = 600
FILE_SIZE: Final = 1 << 30
CACHE_SIZE: Final = 4 << 30  # bytes of one owner's cache, above which it is thrown away

MAX_SITES: Final = 24  # installed sets of packages that are kept

_NAME: Final = re.compile(r"[0-9a-f]{1,64}")
Job = Callable[[], tuple[str, list[int]]]


class Failed(Exception):
    """A job did not do what it was to do; the text is for who published."""


class Runner:
    """`control` is the end of the socket to the publish process; it is owned."""

    def __init__(self, loop: Loop, control: Fd, place: Place, index: dict[str, Any]) -> None:
        self._loop, self._control, self._place, self._index = loop, control, place, index
        self._running: dict[int, str] = {}  # pid → job
        loop.watch(control.fileno(), EPOLLIN, self._take)
        loop.signals([signal.SIGCHLD], lambda _: self._reap())

    def _take(self, _: int) -> None:
        try:
            received = receive_with_fds(self._control.fileno(), MAX_DATAGRAM)
        except ConnectionResetError:  # it left without reading our last words
            received = Received(b"")
        if not received.data:
            self._loop.stop()
            return
        try:
            word, name, *rest = msgspec.msgpack.decode(received.data, type=list[Any])
            if not _NAME.fullmatch(name):
                raise ValueError(f"a job called {name!r}")
            if word == "cancel":
                self._cancel(name)
            elif word == "sweep":
                self._cancel(name)
                shutil.rmtree(self._directory("", name), ignore_errors=True)
            else:
                self._start(name, self._job(word, name, rest, received.fds), [fd.fileno() for fd in received.fds])
        finally:
            close_all(received.fds)

    def _job(self, word: str, name: str, rest: Sequence[Any], fds: Sequence[Fd]) -> Job:
        if word == "clean":
            return self._clean
        directory = self._directory("", name)
        os.makedirs(directory, 0o755, exist_ok=True)
        if word == "pack":
            byte_code, site, *about = rest
            own = msgspec.convert(about, Own)
            index, contents = (fd.fileno() for fd in fds)
            return lambda: self._pack(directory, index, contents, bool(byte_code), self._directory("site-", site), own)
        lines = memfd.read_sealed(fds[0].fileno(), 1 << 24)
        cache = self._directory("cache-", rest[0])
        if word == "lock":
            before = memfd.read_sealed(fds[1].fileno(), 1 << 24)
            return lambda: self._lock(name, directory, cache, str(rest[1]), lines, before)
        site = self._directory("site-", rest[1])
        return lambda: self._install(name, directory, cache, str(rest[2]), lines, site)

    def _directory(self, kind: str, name: object) -> str:
        if name == "" and kind:
            return ""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"a directory called {name!r}")
        return f"{self._place.scratch}/{kind}{name}"

    def _start(self, name: str, job: Job, keep: Sequence[int]) -> None:
        pid = os.fork()
        if pid == 0:
            _in_child(job, name, self._control.fileno(), keep)
        self._running[pid] = name

    def _cancel(self, name: str) -> None:
        for pid, job in self._running.items():
            if job == name:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self._running.pop(pid, None)
            if name is None:  # an orphan of a job: we are PID 1 in here
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # whatever it left in its session
            if status:
                text = "a worker died: it used too much memory or time, or was cancelled; nothing was changed"
                with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it
                    _tell(self._control.fileno(), ["ended", name, False, text])

    # — in the job's own process —

    def _lock(
        self, name: str, directory: str, cache: str, source: str, lines: bytes, before: bytes
    ) -> tuple[str, list[int]]:
        wanted, target = f"{directory}/requirements.txt", f"{directory}/made.lock"
        place = self._place
        with open(target, "wb") as file:  # uv prefers the versions that it finds there
            file.write(before)
        self._uv(name, directory, cache, source, lines, uv.lock_command(place.uv, place.python, cache, wanted, target))
        return "", [os.open(target, os.O_RDONLY | os.O_CLOEXEC)]

    def _install(
        self, name: str, directory: str, cache: str, source: str, lines: bytes, site: str
    ) -> tuple[str, list[int]]:
        if os.path.isdir(site):
            os.utime(site)  # the least used ones go first
            return "installed before", []
        lock, made = f"{directory}/{LOCK}", f"{directory}/site"
        os.mkdir(made)
        place = self._place
        command = uv.install_command(place.uv, place.python, cache, lock, f"{made}/deps")
        self._uv(name, directory, cache, source, lines, command)
        os.makedirs(f"{made}/deps", exist_ok=True)  # where every line was for another platform
        compiled = writer.with_bytecode(place.python, collect(f"{made}/deps", DEPS, keep=installed))
        with open(f"{made}/byte-code", "wb") as file:
            file.write(encode_byte_code(compiled))
        with contextlib.suppress(OSError):  # another job was first
            os.rename(made, site)
        self._keep_sites(MAX_SITES)
        return f"{len(compiled)} modules compiled", []

    def _clean(self) -> tuple[str, list[int]]:
        """Throw away what can be fetched and made again; the answer is how many bytes that were. Who uses it now has
        it open, or fails and is told to publish again."""
        freed = 0
        for entry in os.scandir(self._place.scratch):
            if entry.name.startswith(("cache-", "site-")):
                freed += _taken(entry.path)
                shutil.rmtree(entry.path, ignore_errors=True)
        return str(freed), []

    def _keep_sites(self, most: int) -> None:
        folder = self._place.scratch
        names = [name for name in os.listdir(folder) if name.startswith("site-")]
        for name in sorted(names, key=lambda name: os.stat(f"{folder}/{name}").st_mtime, reverse=True)[most:]:
            shutil.rmtree(f"{folder}/{name}", ignore_errors=True)

    def _uv(self, name: str, directory: str, cache: str, source: str, lines: bytes, command: list[str]) -> None:
        """Run `command`, whose last argument is the file that `lines` are put into. Raises Failed."""
        home = f"{directory}/home"
        os.makedirs(home, exist_ok=True)
        with open(command[-1], "wb") as file:
            file.write(lines)
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
            send_with_fds(self._control.fileno(), msgspec.msgpack.encode(["listening", name]), [listener.fileno()])
        _limit_cache(cache)
        os.chdir(home)
        done = subprocess.run(
            command, env=uv.environment(self._index, proxy, home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=JOB_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").replace(directory + "/", "")
            raise Failed(uv.explain(said or f"uv ended with {done.returncode}", source))

    def _pack(
        self, directory: str, index: int, contents: int, byte_code: bool, site: str, own: Own
    ) -> tuple[str, list[int]]:
        tree = decode(memfd.read_sealed(index))
        members = sources(tree, contents)
        if byte_code:
            members = program(self._place.python, members, site, own)
        else:
            members += compress.variants(members)
        path = f"{directory}/pack"
        with open(path, "w+b") as output:
            summary = writer.write(cast(BinaryIO, output), members)
        text = f"{sum(1 for m in members if m.data is not None)} files, {_size(summary.size)}"
        return text, [os.open(path, os.O_RDONLY | os.O_CLOEXEC)]


def _in_child(job: Job, name: str, control: int, keep: Sequence[int]) -> None:
    """Run `job`, tell its end, and never return."""
    status = 1
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        process.set_parent_death_signal(signal.SIGKILL)
        process.close_all_but({2, control, *keep})
        for number in (0, 1):  # subprocess takes for granted that these are open
            if os.open("/dev/null", os.O_RDWR) != number:
                raise OSError("the standard descriptors could not be opened")
        for what, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, FILE_SIZE)):
            resource.setrlimit(what, (limit, limit))
        try:
            text, fds = job()
        except (Failed, PackError, Rejected) as error:
            _tell(control, ["ended", name, False, str(error)])
        except subprocess.TimeoutExpired:
            _tell(control, ["ended", name, False, f"this step took longer than {JOB_SECONDS} s and was ended"])
        except OSError as error:
            full = uv.explain("No space left on device", "") if error.errno in (28, 122) else str(error)
            _tell(control, ["ended", name, False, full])
        except Exception as error:
            _tell(control, ["ended", name, False, f"{type(error).__name__}: {error}; this is a fault of Fildes"])
        else:
            _tell(control, ["ended", name, True, text], fds)
        status = 0
    except BaseException as error:
        print(f"fildes: publish: a worker failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _tell(control: int, message: list[Any], fds: Sequence[int] = ()) -> None:
    message = [word[:MAX_TEXT] if isinstance(word, str) else word for word in message]
    send_with_fds(control, msgspec.msgpack.encode(message), fds)


def _limit_cache(cache: str) -> None:
    os.makedirs(cache, exist_ok=True)
    if _taken(cache) > CACHE_SIZE:
        shutil.rmtree(cache, ignore_errors=True)


def _taken(folder: str) -> int:
    """Bytes on the disk of what is below."""
    size = 0
    for _folder, _, names, number in os.fwalk(folder):
        size += sum(os.stat(name, dir_fd=number, follow_symlinks=False).st_blocks * 512 for name in names)
    return size


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def run(control: Fd, place: Place, index: dict[str, Any]) -> None:
    """Serve jobs until the publish process closes its end."""
    loop = Loop()
    for name in os.listdir(place.scratch):
        if not name.startswith(("cache-", "site-")):  # what a runner that was killed left
            shutil.rmtree(f"{place.scratch}/{name}", ignore_errors=True)
    Runner(loop, control, place, index)
    loop.run()
