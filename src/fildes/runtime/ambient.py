"""Time, randomness and the network in Python, where they were not granted: errors that name the grant.

Without this `datetime.now()` would silently say 1970, `random.Random()` would silently seed itself from nothing, and
an instance would share its random numbers with its siblings.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from fildes.runtime.kit import Kit
from fildes.runtime.trap import set_on_type


def missing(kind: str, what: str) -> str:
    return f"{what}: not granted; the line [grants.{kind}] in the manifest would grant it"


def prelude() -> None:
    """Import what is patched later, so that it is never imported unpatched."""
    _import_random()
    import datetime  # noqa: F401
    import logging  # noqa: F401
    import socket  # noqa: F401

    try:
        import ssl  # noqa: F401
    except ImportError:  # an interpreter that was built without
        return


def settle(kinds: set[str]) -> None:
    """Refuse what the kinds of the program's grants do not cover."""
    if "clock" not in kinds:
        _refuse_time()
    if "random" not in kinds:
        _refuse_random()
    _explain_network()


def activate(kit: Kit) -> None:
    """The zygote's generator was copied into every instance: give this one a state of its own, if it may."""
    import random

    fds = kit.of_kind("random")
    if fds:
        random.seed(int.from_bytes(os.read(fds[0], 64), "little"))


def _import_random() -> None:
    """Without its hook after fork, which would ask the kernel for entropy in an instance that may not."""
    if "random" in sys.modules:
        return
    plain = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        import random  # noqa: F401
    finally:
        os.register_at_fork = plain


# --- time


def _refuse_time() -> None:
    def refusing(what: str) -> Callable[..., NoReturn]:
        def refuse(*_: object, **__: object) -> NoReturn:
            raise PermissionError(errno.EPERM, missing("clock", f"{what} needs the wall clock, a capability"))

        return refuse

    import datetime
    import logging

    vars(logging)["time"] = _TimeOfLogs()
    for name in ("time", "time_ns"):
        setattr(time, name, refusing(f"time.{name}()"))
    for name in ("localtime", "gmtime", "ctime"):
        setattr(time, name, _with_argument(getattr(time, name), refusing(f"time.{name}()"), 1))
    for name, position in (("strftime", 2), ("asctime", 1)):
        setattr(time, name, _with_argument(getattr(time, name), refusing(f"time.{name}()"), position))
    for name in ("now", "utcnow"):
        set_on_type(datetime.datetime, name, classmethod(refusing(f"datetime.{name}()")))
    for kind, name in ((datetime.datetime, "today"), (datetime.date, "today")):
        set_on_type(kind, name, classmethod(refusing(f"{kind.__name__}.today()")))


def _with_argument(plain: Callable[..., Any], refuse: Callable[..., NoReturn], position: int) -> Callable[..., Any]:
    """`plain`, if it is given the time that it would otherwise ask for."""

    @functools.wraps(plain)
    def function(*args: Any) -> Any:
        return plain(*args) if len(args) >= position and args[position - 1] is not None else refuse()

    return function


class _TimeOfLogs:
    """What `logging` sees as `time`: seconds since the start of the instance. The log driver writes the real time."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()

    def time_ns(self) -> int:
        # Served, it is the coarse clock, up to a tick behind the fine one of the start.
        return max(0, time.monotonic_ns() - self._start)

    def time(self) -> float:
        return self.time_ns() / 1e9

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


# --- randomness


def _refuse_random() -> None:
    """The generator of the module `random` goes on from where the zygote left it, in every instance alike: fit for
    choosing, not for secrets. Everything that asks for entropy raises.
    """
    import random
    import tempfile

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, missing("random", "random numbers are a capability"))

    plain = random.Random.seed

    @functools.wraps(plain)
    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and not isinstance(self, random.SystemRandom):
            refuse()
        plain(self, a, version)

    os.urandom = refuse
    if hasattr(os, "getrandom"):
        os.getrandom = refuse
    random._urandom = refuse  # type: ignore[attr-defined]
    random.Random.seed = seed  # type: ignore[method-assign]
    random.seed = random._inst.seed
    if "ssl" in sys.modules:
        _explain_tls(sys.modules["ssl"])
    # Names in /tmp need to be new, not secret: nobody else sees it.
    tempfile._Random = functools.partial(random.Random, 0)  # type: ignore[attr-defined]


def _explain_tls(ssl: Any) -> None:
    """OpenSSL without randomness says "malloc failure"."""
    plain = ssl.SSLContext.__new__

    @functools.wraps(plain)
    def __new__(cls: type, *args: Any, **options: Any) -> Any:
        try:
            return plain(cls, *args, **options)
        except ssl.SSLError as error:
            error.strerror = f"{error}; {missing('random', 'TLS needs random numbers')}"
            raise

    ssl.SSLContext.__new__ = __new__


# --- the network


def _explain_network() -> None:
    import socket

    plain_init, plain_look_up = socket.socket.__init__, socket.getaddrinfo
    lines = 'the lines [grants.NAME], kind = "connect" and to = "HOST:PORT" in the manifest would grant a connection'

    @functools.wraps(plain_init)
    def __init__(self: socket.socket, *args: Any, **options: Any) -> None:
        try:
            plain_init(self, *args, **options)
        except PermissionError as error:
            error.strerror = f"sockets are granted, not made: {lines}"
            raise

    @functools.wraps(plain_look_up)
    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        try:
            return plain_look_up(host, *args, **options)
        except socket.gaierror as error:
            error.strerror = f"{error.strerror}: there is no network in here to look {host!r} up; {lines}"
            raise

    socket.socket.__init__ = __init__  # type: ignore[method-assign]
    socket.getaddrinfo = getaddrinfo
