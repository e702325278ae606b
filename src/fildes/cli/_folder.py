"""A folder → a tar in anonymous memory: the same files give the same bytes, whatever the folder's order.

What the node would refuse is refused here already, with the path as its user knows it; the node looks again.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Final

from fildes.cli import _render
from fildes.cli._ignore import MAX_BYTES as MAX_RULES
from fildes.cli._ignore import Rules
from fildes.cli._shared import Trouble
from fildes.kernel import memfd

# Always, whatever the ignore files say: caches, and what belongs to the place where one works.
LEFT_OUT: Final = frozenset({
    ".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__", ".tox", ".nox", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".hypothesis", ".DS_Store", ".gitmodules", ".idea", ".vscode", ".eggs", ".ipynb_checkpoints",
})  # fmt: skip
# Never, whatever the ignore files say: without them it would be another publish.
KEPT: Final = frozenset(
    {"fildes.toml", "requirements.txt", "requirements.lock", "pyproject.toml", "uv.lock", "pylock.toml"}
)
LEFT_OUT_ENDS: Final = (".pyc", ".pyo", ".swp", "~")
MAX_BYTES: Final = 512 << 20


class Packed:
    """`fd` is owned by whoever holds this; sizes in bytes. `left_out`: ignore file → what it left out, a whole folder
    as one."""

    def __init__(self, left_out: Counter[str]) -> None:
        self.fd = memfd.create("upload")
        self.files, self.size, self.left_out = 0, 0, left_out

    def words(self) -> str:
        files = f"{self.files} files, {_render.size(self.size)}"
        by = ", ".join(f"{count} by {name}" for name, count in sorted(self.left_out.items()))
        return f"{files} ({by} left out)" if by else files


def pack(folder: str) -> Packed:
    """Raises Trouble, naming the file."""
    left_out: Counter[str] = Counter()
    try:
        entries = sorted(_walk(folder, "", _top_rules(folder), left_out))
    except NotADirectoryError as error:
        raise Trouble(f"{folder}: is a file; name the folder to publish") from error
    except OSError as error:
        raise Trouble(f"{error.filename or folder}: {error.strerror}; it can't be published like this") from error
    if not entries:
        raise Trouble(f"{folder}: there is nothing in it to publish" + _but(left_out))
    packed = Packed(left_out)
    try:
        with (
            open(os.dup(packed.fd.fileno()), "wb") as out,
            tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar,
        ):
            for name in entries:
                _add(tar, folder, name, packed)
        os.lseek(packed.fd.fileno(), 0, os.SEEK_SET)
    except BaseException:
        packed.fd.close()
        raise
    return packed


def _top_rules(folder: str) -> Rules:
    """.fildesignore comes last, so that it can take back ("!dist/") what git leaves out; .dockerignore counts where
    there is no .fildesignore."""
    rules = Rules()
    ours = os.path.exists(os.path.join(folder, ".fildesignore"))
    for name in (".gitignore", ".fildesignore" if ours else ".dockerignore"):
        _read_rules(rules, folder, "", name)
    return rules


def _read_rules(rules: Rules, folder: str, below: str, name: str) -> None:
    try:
        with open(os.path.join(folder, below, name), "rb") as file:
            rules.read(name, below, file.read(MAX_RULES))
    except (FileNotFoundError, IsADirectoryError):
        return


def _walk(folder: str, below: str, rules: Rules, left_out: Counter[str]) -> Iterator[str]:
    """Paths relative to the folder, of everything that is to be published."""
    if below and os.path.exists(os.path.join(folder, below, ".gitignore")):
        inner = rules.copy()
        _read_rules(inner, folder, below, ".gitignore")
        rules = inner
    with os.scandir(os.path.join(folder, below)) as entries:
        for entry in entries:
            name = entry.name
            if name in LEFT_OUT or name.endswith(LEFT_OUT_ENDS) or name.startswith(".#"):
                continue
            path = f"{below}/{name}" if below else name
            try:
                path.encode("utf-8")
            except UnicodeEncodeError as error:
                text = f"{os.fsencode(path)!r}: the file's name is not UTF-8; rename it (for example with convmv)"
                raise Trouble(text) from error
            directory = entry.is_dir(follow_symlinks=False)
            by = None if path in KEPT else rules.names(path, directory=directory)
            if directory:
                if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):  # a virtual environment by another name
                    continue
                if by is not None and not rules.may_return(by):
                    left_out[by] += 1
                    continue
                inside = list(_walk(folder, path, rules, left_out))
                if by is None or inside:
                    yield path
                yield from inside
            elif by is not None:
                left_out[by] += 1
            else:
                yield path


def _but(left_out: Counter[str]) -> str:
    if not left_out:
        return ""
    return f": {', '.join(sorted(left_out))} leaves everything out; a file .fildesignore with the line !* takes it back"


def _add(tar: tarfile.TarFile, folder: str, name: str, packed: Packed) -> None:
    path = os.path.join(folder, name)
    info = tarfile.TarInfo(name)
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, _target(folder, name), 0o777
            tar.addfile(info)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as content:
                status = os.fstat(content.fileno())
                info.size, info.mtime = status.st_size, int(status.st_mtime)
                info.mode = 0o755 if status.st_mode & 0o111 else 0o644
                packed.files, packed.size = packed.files + 1, packed.size + info.size
                if packed.size > MAX_BYTES:
                    limit = MAX_BYTES >> 20
                    raise Trouble(f"{name}: with it the folder has more than {limit} MiB; leave out what isn't needed")
                tar.addfile(info, content)
        else:
            raise Trouble(f"{path}: {_kind(status.st_mode)} can't be published; remove it from the folder")
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror or 'it changed while it was read'}; publish again") from error


def _target(folder: str, name: str) -> str:
    """Where a symlink points to. Raises Trouble if that is outside of the folder, or nowhere."""
    path = os.path.join(folder, name)
    target = os.readlink(path)
    root, end = os.path.realpath(folder), os.path.realpath(path)
    if os.path.isabs(target) or not (end == root or end.startswith(os.path.join(root, ""))):
        raise Trouble(f"{path}: a symlink that leads out of the folder (to {target}); put a copy in its place")
    if not os.path.exists(end):
        raise Trouble(f"{path}: a symlink to {target}, which is not there; remove it")
    return target


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a device"
