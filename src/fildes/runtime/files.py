"""The thin Python layer over the trap: what is loaded ahead, and errors that say what to do.

zygote     prelude(paths)     before the program is imported
           settle(settings)   after that
instance   activate(kit)      after trap.activate

Whatever this does in Python, C libraries get from the trap alone: here is convenience, nothing depends on it.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import functools
import io
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fildes.runtime import ambient, trap
from fildes.runtime.kit import Kit
from fildes.runtime.tmpfile import TmpFile, open_in_tmp

SITE = "/fildes/site"
TMP = "/tmp/"

# They test Python itself, or are of no use in here. A fork costs half a microsecond for each mapping, of which a
# library has five or six.
_LEFT_OUT = (
    *("_test", "_xx", "xx", "_ctypes_test", "_tkinter", "_curses", "readline", "_gdbm", "_dbm", "_interp"),
    *("_lsprof", "_posixshmem", "_crypt", "nis", "ossaudiodev", "spwd", "syslog"),
)

_plain_open = io.open
_roots: tuple[str, ...] = ()
_serving = False
_kept: frozenset[str] = frozenset()  # paths of databases: two opens share a description there, as in /tmp
_settled = False
_loaded: list[ctypes.CDLL] = []


def prelude(paths: Iterable[str]) -> None:
    """Do now what cannot be done once files come from the pack: map every shared library below `paths`, the standard
    library and the runtime's site directory, so that a later import finds them loaded; and replace `open`, before
    anybody keeps a reference to it.
    """
    global _roots
    folders = [*paths, SITE]
    _roots = (*(os.path.join(p, "") for p in folders), os.path.join(sysconfig.get_path("stdlib"), ""), "/fildes/")
    ambient.prelude()
    import encodings.idna  # noqa: F401
    import linecache  # noqa: F401
    import mimetypes
    import tempfile  # noqa: F401

    mimetypes.init()
    _keep_libraries_single_threaded()
    for library in shared_libraries([sysconfig.get_config_var("DESTSHARED") or "", *folders]):
        # One that cannot be loaded now could not be later: its import will say so.
        try:
            _loaded.append(ctypes.CDLL(library))
        except OSError:
            continue
    trap.shortcut()
    builtins.open = io.open = _open
    _explain_late_libraries()
    _follow_directory()


def settle(settings: dict[str, Any]) -> None:
    """From now on time and randomness that were not granted are refused, with the grant's name.

    In the zygote, when the program was imported: its forks then need not write a single page for it. Else `activate`
    does it.
    """
    global _settled
    if not _settled:
        ambient.settle(_kinds(settings))
        _settled = True


def _kinds(settings: dict[str, Any]) -> set[str]:
    return {grant["kind"] for grant in settings.get("grants", ())}


def activate(kit: Kit) -> None:
    """From now on files come from the trap, and those in /tmp, and databases, have an offset each."""
    global _serving, _kept
    settle(kit.settings)
    ambient.activate(kit)
    _serving = "files" not in _kinds(kit.settings)
    _kept = frozenset(grant["path"] for grant in kit.settings.get("grants", ()) if grant["kind"] == "sqlite")


def pause() -> None:
    """The contrary of `activate`, for a zygote that has practised it."""
    global _serving
    _serving = False


def shared_libraries(folders: Iterable[str]) -> Iterator[str]:
    """Every .so below `folders`, sorted; without those that are of no use to a served program."""
    for folder in folders:
        for where, inner, names in os.walk(folder):
            inner.sort()
            for name in sorted(names):
                if (name.endswith(".so") or ".so." in name) and not name.startswith(_LEFT_OUT):
                    yield os.path.join(where, name)


@functools.wraps(_plain_open)
def _open(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
    if not _serving or isinstance(file, int):
        return _plain_open(file, mode, *args, **options)
    try:
        path = os.fspath(file)
        if isinstance(path, str) and (path.startswith(TMP) or path == "/tmp" or path in _kept):
            return open_in_tmp(path, mode, *args, **options)
        return _plain_open(file, mode, *args, **options)
    except OSError as error:
        _explain(error)
        raise


def _explain(error: OSError) -> None:
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.EROFS:
        error.strerror = (
            f"{os.strerror(errno.EROFS)}: a release is read-only; /tmp can be written, "
            "and is memory of this instance, gone with it; what has to last goes into a grant of kind sqlite or files"
        )
    elif path in ("/dev/urandom", "/dev/random"):
        error.strerror = f"{os.strerror(error.errno or 0)}: {ambient.missing('random', 'random numbers')}"
    elif error.errno == errno.ENOENT and path.startswith("/") and not path.startswith((*_roots, TMP)):
        error.strerror = (
            f"{os.strerror(errno.ENOENT)}: not in this release; publish it with the program, "
            f"or let the kernel look for it: the line [grants.files] in the manifest would allow that"
        )


def _follow_directory() -> None:
    """A program may change its directory while it loads: the trap has to know where its instances are."""

    def following(plain: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(plain)
        def change(path: Any) -> None:
            plain(path)
            if not _serving:
                trap.remember_directory()

        return change

    os.chdir, os.fchdir = following(os.chdir), following(os.fchdir)


def _keep_libraries_single_threaded() -> None:
    """Some start a thread for each CPU when they are loaded, and a process with threads can't be forked. The program's
    own environment goes first; it does not see what is added here.
    """
    setenv = ctypes.CDLL(None).setenv
    for name in (b"OPENBLAS_NUM_THREADS", b"OMP_NUM_THREADS", b"MKL_NUM_THREADS", b"BLIS_NUM_THREADS"):
        setenv(name, b"1", 0)


def _explain_late_libraries() -> None:
    from importlib.machinery import ExtensionFileLoader

    plain: Callable[..., Any] = ExtensionFileLoader.create_module

    @functools.wraps(plain)
    def create_module(self: ExtensionFileLoader, spec: Any) -> Any:
        try:
            return plain(self, spec)
        except ImportError as error:
            if _serving and "shared object" in str(error):
                sentence = (
                    f"{error}: libraries are loaded before the program serves, and this one was not among them; "
                    "import it at the top of the program, or add the line [grants.files] to the manifest"
                )
                raise ImportError(sentence, name=error.name, path=error.path) from None
            raise

    ExtensionFileLoader.create_module = create_module  # type: ignore[method-assign]


__all__ = ["TmpFile", "activate", "pause", "prelude", "settle", "shared_libraries"]
