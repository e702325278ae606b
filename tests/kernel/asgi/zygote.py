"""A zygote for the tests: loads a program as the real one does, and forks instances on order.

zygote.py SETTINGS-JSON CONVEYOR HANDLE…    then lines on stdin: "start N" → pid; "reap PID" → status
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    settings = json.loads(sys.argv[1])
    conveyor = int(sys.argv[2])
    handles = [int(number) for number in sys.argv[3:]]
    if settings["loop"] == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]
    from fildes.kernel import process, seccomp
    from fildes.kernel.libc import NR

    process.set_no_new_privs()
    # As under the load profile: libuv would make a ring otherwise, which can't be renewed.
    ring = {NR[name]: (seccomp.Clause(seccomp.return_errno(38)),) for name in NR if name.startswith("io_uring")}
    seccomp.install(seccomp.assemble(ring, seccomp.RET_ALLOW))

    import importlib

    from fildes.runtime.kit import Kit

    runtime = importlib.import_module(f"fildes.runtime.{settings.get('runtime', 'asgi')}")

    serve_filter = _serve_filter() if settings["filter"] else b""
    program = runtime.load(settings)
    threads = len(os.listdir("/proc/self/task"))
    print(f"loaded {threads}", flush=True)
    null = os.open("/dev/null", os.O_RDONLY)
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        if order == "reap":
            _, status = os.waitpid(int(argument), 0)
            print(status, flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        status = 70
        try:
            os.dup2(null, 0)
            handle = handles[int(argument)]
            for other in handles:
                if other != handle:
                    os.close(other)
            kit = Kit(conveyor=conveyor, handle=handle, channel=-1, settings=settings)
            status = runtime.serve(program, kit, lambda: serve_filter and seccomp.install(serve_filter))
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)


def _serve_filter() -> bytes:
    """The serve profile. What it leaves to the trap fails here: serving itself must never need it."""
    from dataclasses import replace

    from fildes.kernel import seccomp
    from fildes.sandbox import profile

    serve = profile.load("serve")
    calls = {}
    for name, call in serve.calls.items():
        clauses = [
            replace(clause, action=seccomp.return_errno(1)) if clause.action == seccomp.RET_TRAP else clause
            for clause in call.clauses
        ]
        calls[name] = replace(call, clauses=tuple(clauses))
    return profile.compile(replace(serve, calls=calls))


main()
