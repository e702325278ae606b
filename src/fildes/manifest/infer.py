"""A manifest for a folder that has none: taken as it is where it plainly is a site, put into words otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from fildes.manifest import words
from fildes.manifest.guess import Guess, guess
from fildes.manifest.problems import ManifestError, Problem
from fildes.manifest.words import Wrong
from fildes.wire.catalogue import Manifest

_PROGRAM: Final = ("requirements.txt", "pyproject.toml", "setup.py", "setup.cfg", "Pipfile", "uv.lock", "manage.py")


def infer(
    names: Iterable[str], name: str | None, read: Callable[[str], bytes | None] = lambda _: None, folder: str = ""
) -> Manifest:
    """The manifest of a static site called `name`, if the folder with these files (relative paths) plainly is one:
    index.html at the top, and no Python program beside it. `read` gives a file's bytes, `folder` is what the folder is
    called. Raises ManifestError with what to do instead: for a program, the manifest to write."""
    paths = sorted({n.removeprefix("./") for n in names})
    top = [n for n in paths if "/" not in n]
    program = [n for n in top if n in _PROGRAM or n.endswith(".py")]
    found = guess(paths, read) if program or "index.html" not in top else None
    if found is not None or program:
        raise _refusal("is missing, and " + _because(found, program), _lines(found, program, name or _name(folder)))
    if "index.html" not in top:
        raise _refusal(
            "is missing, and so is index.html: it cannot be told what this folder is",
            "add an index.html if it is a site, or a fildes.toml if it is a program: fildes new shows one",
        )
    if name is None:
        raise _refusal(
            "is missing; this folder looks like a site",
            f"publish it as one: fildes publish DIR --name {_name(folder)}; or write a fildes.toml",
        )
    try:
        words.service(name)
    except Wrong as wrong:
        raise _refusal(f"is missing, and the name given will not do: {wrong.text}", wrong.hint) from wrong
    return Manifest(name=name, runtime="static", hosts=[f"{name}.localhost"])


def _refusal(text: str, hint: str) -> ManifestError:
    return ManifestError("fildes.toml", [Problem(0, text, hint)])


def _because(found: Guess | None, program: list[str]) -> str:
    if found is None:
        return f"{program[0]} says that this is a program, not just a site"
    if found.what in ("function", "service"):
        return f"{found.where} looks like a {found.what}"
    article = "an" if found.what[0] in "AEIOU" else "a"
    return f"{found.where} makes {article} {found.what} application"


def _lines(found: Guess | None, program: list[str], name: str) -> str:
    """The manifest to write, and what else."""
    runtime = found.runtime if found else "asgi"
    entry = found.entry if found else _entry(program)
    hint = "write this fildes.toml and publish again:\n\n"
    if found is not None and found.factory:
        entry = f"{found.entry.rpartition(':')[0]}:{found.factory}()"
    lines = [f'name = "{name}"', f'runtime = "{runtime}"', f'entry = "{entry}"']
    if runtime != "service":
        lines.append(f'hosts = ["{name}.localhost"]')
    lines += ["", "[grants.clock]   # the time: most programs need it", "[grants.random]  # sessions and tokens"]
    if found is not None and found.what == "Django":
        lines[-3:-3] = ['on_release = ["python manage.py migrate"]']
        lines += ["", "[grants.db]      # where startproject's settings expect it", 'kind = "sqlite"']
        lines += ['path = "/app/db.sqlite3"']
    return hint + "".join(f"    {line}\n" if line else "\n" for line in lines)


def _name(folder: str) -> str:
    """A service's name, made of a folder's."""
    meant = re.sub(r"[^a-z0-9-]+", "-", folder[:63].lower()).strip("-0123456789")
    return meant if words.SERVICE.fullmatch(meant) else "NAME"


def _entry(program: list[str]) -> str:
    modules = [n.removesuffix(".py") for n in program if n.endswith(".py") and n not in _PROGRAM]
    for usual in ("main", "app", "asgi"):
        if usual in modules:
            return f"{usual}:app"
    return f"{next((m for m in modules if m.isidentifier()), 'main')}:app"
