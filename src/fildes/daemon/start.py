"""How a daemon begins: what init hands it, and the last step before its loop.

init's forked child comes here with its privileges already dropped and every descriptor closed but its own.
From here on it is a program like any other: it imports `<module>`, whose `main(inheritance)` builds its loop
and handlers, calls `confine(profile)`, and runs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import traceback
from typing import Any

from fildes.kernel.fds import Fd


class Inheritance:
    """What init gives a daemon; the daemon owns the descriptors.

    `channel` leads to the bus (the bus's own is a loop to itself: it meets it again as fds["channel.bus"]),
    `store` to init. `fds` by name, as init's table lists them. `settings`: plain values of `fildes up`:
    root, uid_base, operator (uids), state, python (paths), http (list of "host:port"), version, cgroup (its name).
    """

    __slots__ = ("channel", "fds", "keep", "name", "settings", "store")

    def __init__(
        self,
        name: str,
        channel: Fd,
        store: Fd,
        fds: dict[str, Fd],
        settings: dict[str, Any],
        *,
        keep: frozenset[int] = frozenset(),
    ) -> None:
        self.name, self.channel, self.store, self.fds, self.settings = name, channel, store, fds, settings
        self.keep = keep  # the capabilities(7) that stay after `confine`


_given: Inheritance | None = None


def run(module: str, inheritance: Inheritance) -> int:
    """Import `module`, call its `main(inheritance)`, and say the exit status. Never raises."""
    global _given
    _given = inheritance
    try:
        gc.disable()  # an import makes next to no garbage, and looks for it often
        _import_msgspec()
        loaded = importlib.import_module(module)
        gc.freeze()
        gc.enable()
        loaded.main(inheritance)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        print(f"fildes: {inheritance.name} ended with an error:", file=sys.stderr)
        traceback.print_exc()
        return 1
    return 0


def _import_msgspec() -> None:
    """Without `typing_extensions`, which it takes where it finds it: 1.4 MB and 6 ms of every daemon, for nothing that
    `typing` has not had since 3.11."""
    name = "typing_extensions"
    absent = name not in sys.modules
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: this import fails
    with contextlib.suppress(ImportError):  # whoever needs it will say so
        importlib.import_module("msgspec")
    if absent:
        del sys.modules[name]


def confine(profile: str | None) -> None:
    """Give up for good what only loading needed: capabilities first, then every syscall outside `profile`.

    Called after the imports, before the loop runs. Until then a daemon started by root may read files that its uid
    may not (CAP_DAC_READ_SEARCH: an interpreter in a private home directory). None: capabilities only.
    """
    from fildes.kernel import process

    program = None
    if profile is not None:
        from fildes.sandbox import profile as profiles  # here: init's children without a profile need no tomllib

        program = profiles.compile(profiles.load(profile))
    process.drop_capabilities(_given.keep if _given is not None else frozenset())
    process.set_no_new_privs()
    if program is not None:
        from fildes.kernel import seccomp

        seccomp.install(program)
