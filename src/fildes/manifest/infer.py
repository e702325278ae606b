"""A manifest for a folder that has none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fildes.manifest import words
from fildes.manifest.problems import ManifestError, Problem
from fildes.manifest.words import Wrong
from fildes.wire.catalogue import Manifest

_PROGRAM: Final = ("requirements.txt", "pyproject.toml", "setup.py", "setup.cfg", "Pipfile", "uv.lock", "manage.py")


def infer(names: Iterable[str], name: str) -> Manifest:
    """The manifest of a static site called `name`, if the folder with these files (relative paths) plainly is one:
    index.html at the top, and no Python program beside it. Raises ManifestError with what to do instead."""
    top = sorted({n.removeprefix("./") for n in names if "/" not in n.removeprefix("./")})
    program = [n for n in top if n in _PROGRAM or n.endswith(".py")]
    problem = None
    if program:
        problem = Problem(
            0,
            f"is missing, and {program[0]} says that this is a program, not just a site",
            f'write a fildes.toml with name = "{name}", runtime = "asgi", entry = "{_entry(program)}" '
            f'and hosts = ["{name}.localhost"]',
        )
    elif "index.html" not in top:
        problem = Problem(
            0,
            "is missing, and so is index.html: it cannot be told what this folder is",
            "add an index.html if it is a site, or a fildes.toml if it is a program",
        )
    else:
        try:
            words.service(name)
        except Wrong as wrong:
            problem = Problem(0, f"is missing, and the name given will not do: {wrong.text}", wrong.hint)
    if problem is not None:
        raise ManifestError("fildes.toml", [problem])
    return Manifest(name=name, runtime="static", hosts=[f"{name}.localhost"])


def _entry(program: list[str]) -> str:
    modules = [n.removesuffix(".py") for n in program if n.endswith(".py") and n not in _PROGRAM]
    for usual in ("main", "app", "asgi"):
        if usual in modules:
            return f"{usual}:app"
    return f"{next((m for m in modules if m.isidentifier()), 'main')}:app"
