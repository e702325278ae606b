"""Becomes an instance as far as the trap is concerned, then runs a program under the real serve filter.

Started by `conftest.py` with a JSON order as its argument; stdlib only, on any interpreter.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    order = json.loads(sys.argv[1])
    sys.path.insert(0, order["src"])
    from fildes.capabilities.sqlite.driver import open_database
    from fildes.kernel import seccomp, timers
    from fildes.kernel.fds import Fd
    from fildes.kernel.process import set_no_new_privs, set_tsc_faults, unmap_vdso
    from fildes.runtime import files, trap
    from fildes.runtime.kit import Kit

    if order["no_vdso"]:
        if unmap_vdso():
            raise RuntimeError("the vDSO stayed")
        set_tsc_faults()
    sys.path[:] = ["/app", *(p for p in sys.path if p != order["src"]), order["src"]]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    packs = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in order["packs"]]
    with open(order["filter"], "rb") as file:
        filter_program = file.read()
    grants: dict[str, list[int]] = {}
    if order["clock"]:
        timer = timers.create()
        timers.arm(timer.fileno(), 1_000_000, 1_000_000)
        page = os.memfd_create("page")
        os.write(page, order["clock"].to_bytes(8, "little") + bytes(32))
        grants["clock"] = [timer.take(), page]
    if order["random"]:
        grants["random"] = [os.open("/dev/urandom", os.O_RDONLY | os.O_CLOEXEC)]
    for name, value in order["secrets"].items():
        secret = os.memfd_create(name)
        os.write(secret, value.encode())
        grants[name] = [secret]
    kinds = [{"name": name, "kind": name if name in ("clock", "random") else "secret", "to": None} for name in grants]
    if order["files"]:
        kinds.append({"name": "files", "kind": "files", "to": None})
    for name, database in order["databases"].items():
        with Fd.open(database["directory"], os.O_RDONLY) as directory:
            opened = open_database(directory.fileno(), writable=database["writable"])
        grants[name] = [fd.take() for fd in opened]
        kinds.append({"name": name, "kind": "sqlite", "to": None} | database)
    kit = Kit(conveyor=-1, handle=-1, channel=-1, packs=packs, grants=grants, settings={"grants": kinds})
    trap.prepare(packs, null)
    files.prelude(order["prelude"])
    code = compile(order["before"], "before.py", "exec")
    program = compile(order["program"], "program.py", "exec")
    names: dict[str, object] = {"__name__": "__program__"}
    exec(code, names)
    files.settle(kit.settings)
    trap.activate(kit)
    files.activate(kit)
    sys.path_importer_cache.clear()  # there is no /app on this machine, which was noted while importing the above
    set_no_new_privs()
    seccomp.install(filter_program)
    exec(program, names)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


main()
