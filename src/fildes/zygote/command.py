"""A command of a release: a fork of the zygote that runs a script, a module or a line of code instead of serving.

The program was imported before the fork; what runs here finds it so, and else the surroundings that it would have
behind `python` in /app: its own __main__, sys.argv, sys.path, standard streams, exit status. Files come from the pack
by the trap, as in any instance. The confinement is an instance's; only the filter's lines on terminals differ.
"""

from __future__ import annotations

import atexit
import builtins
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from fildes import sdk
from fildes.kernel import seccomp
from fildes.kernel.fds import Fd, send_with_fds
from fildes.runtime import files, trap
from fildes.runtime.kit import Kit
from fildes.wire import command as wire

if TYPE_CHECKING:
    from fildes.zygote.main import Zygote

STREAMS = ("stdin", "stdout", "stderr")
_MAX_FILTER = 1 << 20
_OURS = ("/fildes/lib/", "<frozen runpy>", "<frozen importlib")


def become(zygote: Zygote, order: dict[str, Any], fds: dict[str, list[Fd]], *, forked: bool) -> NoReturn:
    """In the fork (or, in a program with threads, in the zygote itself). Ends the process."""
    status = 70  # EX_SOFTWARE of sysexits.h, unless the command says otherwise
    try:
        zygote.leave()
        for number, name in enumerate(STREAMS):
            os.dup2(fds[name][0].fileno(), number)
            fds[name][0].close()
        kit = Kit(
            conveyor=-1,
            handle=fds["handle"][0].take(),
            channel=fds["channel"][0].take(),
            packs=zygote.packs,
            grants=zygote.grants_of(fds),
            settings=zygote.settings,
        )
        program = os.pread(fds["filter"][0].fileno(), _MAX_FILTER, 0)
        fds["filter"][0].close()
        for fd in fds.get("cgroup", []):
            os.write(fd.fileno(), b"0")  # itself: see Cgroup.entrances
            fd.close()
        send_with_fds(kit.handle, b"U")
        trap.activate(kit)
        terminal = next((number for number in range(3) if os.isatty(number)), -1)
        trap.set_terminal(terminal)
        seccomp.install(program, every_thread=not forked)
        files.activate(kit)
        sdk._bind(kit)
        os.environ.update(order["command"]["environment"])
        _renew_streams()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run(order["command"]["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status & 0xFF)


def run(arguments: list[str]) -> int:
    """Run what the words ask for as Python would, to its end: the exit status."""
    status = 0
    try:
        _begin(wire.invocation(arguments))
    except SystemExit as stop:
        status = _status_of(stop)
    except KeyboardInterrupt as stop:
        _show(stop)
        status = 128 + signal.SIGINT
    except BaseException as error:
        _show(error)
        status = 1
    return _end(status)


def _begin(asked: wire.Invocation) -> None:
    if asked.kind == "file":
        sys.argv[:] = [asked.what, *asked.argv]
        _run_file(asked.what)
    elif asked.kind == "module":
        import runpy

        sys.argv[:] = ["-m", *asked.argv]
        _set_first_path("/app")
        # The program may have imported it already, which runpy thinks worth a warning.
        warnings.filterwarnings("ignore", message=".*found in sys.modules after import", module="runpy")
        runpy.run_module(asked.what, run_name="__main__", alter_sys=True)
    elif asked.kind == "code":
        sys.argv[:] = ["-c", *asked.argv]
        _set_first_path("/app")
        main = _new_main()
        exec(compile(asked.what, "<string>", "exec", dont_inherit=True), main.__dict__)
    else:
        sys.argv[:] = [""]
        _set_first_path("/app")
        _console()


def _run_file(path: str) -> None:
    import importlib.machinery
    import runpy

    if os.path.isdir(path):  # a folder with a __main__.py
        runpy.run_path(path, run_name="__main__")
        return
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        why = "there is no such file in the release" if isinstance(error, FileNotFoundError) else error.strerror
        sys.stderr.write(f"python: can't open file {os.path.abspath(path)!r}: {why}\n")
        raise SystemExit(2) from error
    _set_first_path(os.path.dirname(os.path.abspath(path)))
    main = _new_main()
    main.__file__ = os.path.abspath(path)
    main.__dict__["__cached__"] = None
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", main.__file__)
    code: CodeType = compile(source, main.__file__, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def _new_main() -> ModuleType:
    """A __main__ without what the zygote's has."""
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    return main


def _set_first_path(folder: str) -> None:
    """Where Python looks for modules first; the release's folders come behind it as they did when it was loaded."""
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _console() -> None:
    """`python` alone: a prompt on a terminal, else what standard input holds."""
    main = _new_main()
    if not sys.stdin.isatty():
        exec(compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True), main.__dict__)
        return
    import code

    code.interact(f"Python {sys.version.split()[0]}, in the release's confinement", local=main.__dict__)


# — the surroundings —


def _renew_streams() -> None:
    """The zygote's are of the log: a terminal's are written line by line, and a pipe can't be positioned."""
    for number, name in enumerate(STREAMS):
        interactive = os.isatty(number)
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw) if number else io.BufferedReader(raw),
            encoding="utf-8",
            errors="backslashreplace" if number == 2 else "surrogateescape",
            line_buffering=number == 2 or (number == 1 and interactive),
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# — the end —


def _status_of(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """As the interpreter does, without the frames that are ours."""
    shown = error.with_traceback(_theirs(error.__traceback__))
    try:
        sys.excepthook(type(shown), shown, shown.__traceback__)
    except BaseException:
        traceback.print_exception(shown)


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace


def _end(status: int) -> int:
    """What the interpreter does at its end, short of taking itself apart: what was made immortal can't be finalised."""
    try:
        threading._shutdown()  # type: ignore[attr-defined] # joins the threads that are no daemons
        atexit._run_exitfuncs()
    except BaseException as error:
        _show(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            if status == 0:
                status = 120  # as Python's own
    return status
