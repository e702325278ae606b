"""Load, report, and fork on order.

The three steps of confinement as the tenant's side sees them: everything until `loaded` happens under the load
profile, with each file call let through by the orchestrator; then the orchestrator turns the ratchet from outside;
from there on only `start` orders come, each good for one fork, and an instance locks itself down to its
descriptors before it serves.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, NoReturn

from fildes import sdk
from fildes.kernel import process, seccomp, vdso
from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds
from fildes.runtime import ambient, files, hot, kit, trap
from fildes.runtime.kit import Kit
from fildes.runtime.program import CannotLoad
from fildes.sdk import program as sdk_program
from fildes.wire import zygote as wire
from fildes.zygote import command, forking, server

EX_SOFTWARE: Final = 70  # sysexits.h
RUNTIMES: Final = frozenset({"asgi", "function", "service", "wsgi"})


def main(control: int) -> int:
    """Returns the exit status: 1 when the program could not be loaded."""
    order, fds = _receive(control)
    settings = order["settings"]
    phases: dict[str, float] = {}
    try:
        runtime, program = _load(settings, fds, phases)
    except BaseException as error:
        _send(control, {"is": "failed", "error": _sentence(error, settings), "detail": _detail(error)[-16384:]})
        return 1
    zygote = Zygote(control, settings, runtime, program, fds)
    began = time.monotonic()
    hot.settle(zygote.practise, [sys.modules[__name__], server, runtime, kit, files, ambient])
    phases["immortal"] = (time.monotonic() - began) * 1e3
    _send(control, {"is": "loaded", "phases": phases})
    return zygote.run()


def _load(settings: dict[str, Any], fds: dict[str, list[Fd]], phases: dict[str, float]) -> tuple[ModuleType, Any]:
    began = time.monotonic()
    if settings["runtime"] not in RUNTIMES:
        raise ValueError(f"no runtime {settings['runtime']!r} in this version")
    process.set_tsc_faults()
    vdso.unmap_vdso([tuple(span) for span in settings["vdso"]])
    os.environ.clear()
    os.environ.update(settings["env"])
    sys.path[:0] = settings["paths"]
    sys.path.append("/fildes/site")
    sys.argv[:] = [settings["entry"]]
    os.dup2(fds["null"][0].fileno(), 0)  # the one of the view goes with the view
    trap.prepare([fd.fileno() for name in ("release", "base") for fd in fds.get(name, [])], fds["null"][0].fileno())
    files.prelude(settings["paths"])
    runtime = importlib.import_module(f"fildes.runtime.{settings['runtime']}")
    phases["interpreter"] = (time.monotonic() - began) * 1e3
    began = time.monotonic()
    program = runtime.load(settings)
    files.settle(settings)
    phases["import"] = (time.monotonic() - began) * 1e3
    return runtime, program


def _detail(error: BaseException) -> str:
    """The traceback, from the tenant's first line on: how we came there says nothing to them."""
    if isinstance(error, CannotLoad):
        return ""
    shown = error.__traceback__
    while shown is not None and not shown.tb_frame.f_code.co_filename.startswith(("/app", "/deps")):
        shown = shown.tb_next
    if shown is None and not isinstance(error, SyntaxError):
        shown = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, shown))


def _sentence(error: BaseException, settings: dict[str, Any]) -> str:
    """What went wrong and in which of the tenant's lines, in one sentence."""
    if isinstance(error, CannotLoad):
        return str(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(("/app", "/deps"))]
    where = f" (at {frames[-1].filename.removeprefix('/app/')}, line {frames[-1].lineno})" if frames else ""
    early = "unable to open database" in str(error) and any(g["kind"] == "sqlite" for g in settings["grants"])
    hint = "; a granted database is there when the program serves, not while it loads: open it then" if early else ""
    if isinstance(error, ModuleNotFoundError):
        hint = "; a package that it needs is a line of requirements.txt or pyproject.toml"
    return f"{type(error).__name__}: {error}{where}{hint}"


class Zygote:
    def __init__(
        self, control: int, settings: dict[str, Any], runtime: ModuleType, program: Any, fds: dict[str, list[Fd]]
    ) -> None:
        self.control = control
        self.settings = settings
        self.runtime = runtime
        self.program = program
        self.packs = [fd.fileno() for name in ("release", "base") for fd in fds.get(name, [])]
        self.serve_filter = os.pread(fds["serve"][0].fileno(), 1 << 20, 0)
        self._kept = fds
        self.instances: dict[int, str] = {}
        self._waking: tuple[int, ...] = ()
        # Either of them now: there are calls in it that are for loading only.
        self._server = self._make_server() if server.usable() else None
        if self._server is None:
            self._waking = _wake_up_on_sigchld()

    def practise(self) -> list[Callable[[], object]]:
        """What is run in an instance, as far as it can be run before there is one."""
        return [self._take_up_and_give_back, *getattr(self.runtime, "practise", _nothing_of)(self.program)]

    def _take_up_and_give_back(self) -> None:
        try:
            _hand_over(Kit(-1, -1, -1, self.packs, {}, self.settings))
        finally:
            files.pause()
            sdk_program.unbind()

    def run(self) -> int:
        """Carry out orders until nobody gives them any more. An instance does not come back."""
        waiting = self._server
        if waiting is None:
            return self._run_plainly()
        while (kind := waiting.next()) != server.OVER:
            if kind == server.INSTANCE:
                self._begin_instance(waiting)
            elif kind == server.MESSAGE:
                self._start(*_named(waiting.message(), [Fd(number) for number in waiting.descriptors()]))
            elif kind == server.ENDED:
                self._ended(waiting.order.pid, waiting.order.status)
        return 0

    def _make_server(self) -> server.Server:
        holdings = getattr(self.program, "holdings", None)
        return server.Server(self.control, [fd.fileno() for fd in self._kept["serve"]], self.serve_filter, holdings)

    def _run_plainly(self) -> int:
        reader, _ = self._waking
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(reader, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 4096)
                    self._reap()
                    continue
                try:
                    order, fds = _receive(self.control)
                except EOFError:
                    return 0
                self._start(order, fds)

    def _start(self, order: dict[str, Any], fds: dict[str, list[Fd]]) -> None:
        if not order["fork"]:  # its threads could not be forked: this process itself becomes the instance
            self._become(order, fds, forked=False)
        try:
            pid = forking.fork()
        except OSError as error:
            _send(self.control, {"is": "exited", "instance": order["instance"], "status": 255 << 8, "why": str(error)})
        else:
            if pid == 0:
                # First of all, before a number of the program's event loop is taken by something else.
                getattr(self.program, "renew", _nothing)()
                self._become(order, fds, forked=True)
            self.instances[pid] = order["instance"]
        for group in fds.values():
            for fd in group:
                fd.close()

    def _become(self, order: dict[str, Any], fds: dict[str, list[Fd]], *, forked: bool) -> NoReturn:
        if "command" in order:
            command.become(self, order, fds, forked=forked)
        self._become_instance(fds, forked=forked)

    def leave(self) -> None:
        """Give up what only a zygote needs."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (*self._waking, self.control):
            os.close(number)
        for fd in self._kept["serve"]:
            fd.close()

    @staticmethod
    def grants_of(fds: dict[str, list[Fd]]) -> dict[str, list[int]]:
        """The descriptors of grants among those of an order, by the grant's name; the caller's from now on."""
        return {
            name.removeprefix("grant:"): [fd.take() for fd in group]
            for name, group in fds.items()
            if name.startswith("grant:")
        }

    def _begin_instance(self, waiting: server.Server) -> NoReturn:
        """In a child of the server's, which has done the most of it."""
        order = waiting.order
        grants: dict[str, list[int]] = {}
        if not order.locked:
            words = wire.decode(waiting.message())["fds"]
            for name, number in zip(words, waiting.descriptors(), strict=True):
                if name.startswith("grant:"):
                    grants.setdefault(name.removeprefix("grant:"), []).append(number)
        kit = Kit(order.conveyor, order.handle, order.channel, self.packs, grants, self.settings)
        getattr(self.program, "renewed", _nothing)()
        self._serve(kit, locked=bool(order.locked), forked=True)

    def _become_instance(self, fds: dict[str, list[Fd]], *, forked: bool) -> NoReturn:
        try:
            self.leave()
            for fd in fds.get("cgroup", []):
                os.write(fd.fileno(), b"0")  # itself: see Cgroup.entrances
                fd.close()
            kit = Kit(
                conveyor=fds["conveyor"][0].take() if "conveyor" in fds else -1,
                handle=fds["handle"][0].take(),
                channel=fds["channel"][0].take(),
                packs=self.packs,
                grants=self.grants_of(fds),
                settings=self.settings,
            )
            if kit.conveyor >= 0:
                send_with_fds(kit.handle, b"U")
        except BaseException:
            traceback.print_exc()
            os._exit(EX_SOFTWARE)
        self._serve(kit, locked=False, forked=forked)

    def _serve(self, kit: Kit, *, locked: bool, forked: bool) -> NoReturn:
        status = EX_SOFTWARE  # unless serve says otherwise
        try:
            if not locked:
                trap.activate(kit)
                seccomp.install(self.serve_filter, every_thread=not forked)
            _hand_over(kit)
            # The filter is on already: what an event loop asks at its start, the trap answers.
            status = self.runtime.serve(self.program, kit, lambda: self._wait(kit))
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status & 0xFF)

    def _wait(self, kit: Kit) -> bool:
        """In an instance that was forked ahead, until somebody needs it: all that is left to do is the program's.

        Whether there was anything to wait for.
        """
        if kit.conveyor >= 0:
            return False
        kit.conveyor = self._server.conveyor(kit.handle) if self._server is not None else _conveyor(kit.handle)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        instance = self.instances.pop(pid, None)
        if instance is not None:
            _send(self.control, {"is": "exited", "instance": instance, "status": status})


def _conveyor(handle: int) -> int:
    """As fildes_fork_conveyor in shim/fork.c."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while True:
        poll.poll()
        with contextlib.suppress(BlockingIOError):
            received = receive_with_fds(handle, 8, 1)
            if received.data != wire.GO or not received.fds:
                os._exit(0)
            send_with_fds(handle, b"U")
            return received.fds[0].take()


def _hand_over(kit: Kit) -> None:
    """What the program sees of it. With the trap on."""
    files.activate(kit)
    sdk._bind(kit)


def _wake_up_on_sigchld() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader, writer


def _nothing_of(_: object) -> tuple[()]:
    """For a runtime that has nothing to practise."""
    return ()


def _nothing() -> None:
    """For a program that holds nothing to be renewed."""


def _receive(control: int) -> tuple[dict[str, Any], dict[str, list[Fd]]]:
    received = receive_with_fds(control, wire.MAX_DATAGRAM, wire.MAX_FDS)
    if not received.data:
        raise EOFError("the orchestrator closed the control socket")
    return _named(received.data, received.fds)


def _named(data: bytes, fds: list[Fd]) -> tuple[dict[str, Any], dict[str, list[Fd]]]:
    """A message, and its descriptors by name."""
    message = wire.decode(data)
    named: dict[str, list[Fd]] = {}
    for name, fd in zip(message["fds"], fds, strict=True):
        named.setdefault(name, []).append(fd)
    return message, named


def _send(control: int, message: dict[str, Any]) -> None:
    send_with_fds(control, wire.encode(message))
