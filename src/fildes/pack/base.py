"""The base pack: what every release on one interpreter shares, so that it is in memory once.

The standard library, Fildes' tenant side, what its runtime uses of others, CA certificates, MIME types, time zones.
Paths are those of the machine, except for Fildes itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from fildes.pack.bytecode import cache_name, converted
from fildes.pack.collect import Source, collect
from fildes.pack.format import VERSION
from fildes.pack.writer import Summary, with_bytecode, write

PACKAGE: Final = "/fildes/lib/fildes"
SITE: Final = "/fildes/site"
SITE_PACKAGES: Final = ("uvloop", "wsproto", "h11")
TENANT_SIDE: Final = frozenset({"capabilities", "kernel", "pack", "runtime", "sdk", "wire", "zygote", "__init__.py"})

_SKIPPED: Final = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "venv", "lib2to3", "pydoc_data"}
    | {"site-packages", "dist-packages", "__phello__"}
)
_ZONES: Final = "/usr/share/zoneinfo"
_ZONES_SKIPPED: Final = frozenset({"posix", "right", "localtime", "posixrules", "Etc/localtime"})
_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"  # where Debian keeps them, and programs look
_SMALL: Final = {
    "/etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
    "/etc/passwd": b"fildes:x:0:0::/tmp:/nonexistent\n",
    "/etc/nsswitch.conf": b"hosts: files\npasswd: files\n",
}


@dataclass(frozen=True, slots=True)
class Interpreter:
    executable: str
    stdlib: tuple[str, ...]
    """the directories of the standard library, outside of any virtual environment"""
    magic: bytes
    """of its byte code"""
    cache_tag: str
    version: str
    certificates: tuple[str, ...]
    """where its OpenSSL looks for files by default"""


def interpreter(python: str | None = None) -> Interpreter:
    """About `python`, or the interpreter that this process runs on, outside its virtual environment.

    Raises OSError when it cannot be run or does not say.
    """
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    if python is None or os.path.realpath(python) == own:
        facts = _about_this_one()
        python = own
    else:
        code = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        code += "from fildes.pack import base; print(json.dumps(base._about_this_one()))"
        ran = subprocess.run([python, "-B", "-s", "-c", code], capture_output=True, check=False, env={}, cwd="/")
        if ran.returncode:
            last = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"{python} does not say what it is: {''.join(last)}")
        facts = json.loads(ran.stdout)
    return Interpreter(
        executable=python,
        stdlib=tuple(facts["stdlib"]),
        magic=bytes.fromhex(facts["magic"]),
        cache_tag=facts["cache_tag"],
        version=facts["version"],
        certificates=tuple(facts["certificates"]),
    )


def _about_this_one() -> dict[str, Any]:
    paths = sysconfig.get_paths("posix_prefix", vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
    verify = ssl.get_default_verify_paths()
    openssl = os.path.join(os.path.dirname(verify.openssl_cafile), "openssl.cnf")
    return {
        "stdlib": sorted({paths["stdlib"], paths["platstdlib"]}),
        "magic": importlib.util.MAGIC_NUMBER.hex(),
        "cache_tag": sys.implementation.cache_tag,
        "version": sys.version,
        "certificates": [verify.openssl_cafile, openssl],
    }


def name(python: str | None = None) -> str:
    """The file name under which the base pack of this interpreter is to be kept: another one when any part changes."""
    about = interpreter(python)
    digest = hashlib.sha256(f"{VERSION}\n{about}\n".encode())
    for source in members(about):
        if isinstance(source.data, Path):
            info = source.data.stat()
            digest.update(f"{source.path}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
        else:
            data = source.data if isinstance(source.data, bytes) else b""
            digest.update(source.path.encode() + b"\0" + data + b"\n")
    return f"base-{about.cache_tag}-{digest.hexdigest()[:24]}.pack"


def build(path: str | Path, python: str | None = None) -> Summary:
    """Write the base pack to `path`, whole or not at all.

    Raises OSError, and PackError for a library that cannot be packed.
    """
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "xb") as output:
            summary = write_base(output, python)
            os.fchmod(output.fileno(), 0o444)
            os.fsync(output.fileno())
        os.rename(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return summary


def write_base(output: BinaryIO, python: str | None = None) -> Summary:
    """The base pack, into a seekable file."""
    about = interpreter(python)
    sources = list(members(about))
    compiled, rest = [], []
    for source in sources:
        if not source.path.endswith(".py") or not isinstance(source.data, Path):
            continue
        pyc = converted(source.data, about.magic, about.cache_tag)
        if pyc is None:
            rest.append(source)
        else:
            compiled.append(Source(cache_name(source.path, about.cache_tag), pyc))
    return write(output, [*sources, *compiled, *with_bytecode(about.executable, rest)])


def members(about: Interpreter) -> Iterator[Source]:
    """Everything but the byte code."""
    for folder in about.stdlib:
        yield from collect(folder, folder, keep=_kept(folder, _SKIPPED))
    package = Path(__file__).parents[1]
    yield from collect(package, PACKAGE, keep=lambda inner: inner.split("/")[0] in TENANT_SIDE)
    for module in SITE_PACKAGES:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations:
            folder = next(iter(spec.submodule_search_locations))
            yield from collect(folder, f"{SITE}/{module}", keep=_kept(folder, _SKIPPED))
    if os.path.isdir(_ZONES):
        yield from collect(_ZONES, _ZONES, keep=_kept(_ZONES, _ZONES_SKIPPED))
    yield from (Source(path, data) for path, data in _SMALL.items())
    for path in sorted({"/etc/mime.types", _CERTIFICATES, *about.certificates}):
        if os.path.isfile(path):
            yield Source(path, Path(os.path.realpath(path)))


class _kept:
    """Not what is skipped, nor a link out of the folder: Debian's library has some to /etc."""

    def __init__(self, folder: str, skipped: frozenset[str]) -> None:
        self._folder, self._skipped = os.path.realpath(folder), skipped

    def __call__(self, inner: str) -> bool:
        path = os.path.join(self._folder, inner)
        last = inner.rpartition("/")[2]
        if inner in self._skipped or last in self._skipped:
            return False
        if last.startswith("config-") or last.endswith((".a", ".c", ".pyx")):  # for building programs in C
            return False
        return not os.path.islink(path) or os.path.realpath(path).startswith(self._folder + "/")
