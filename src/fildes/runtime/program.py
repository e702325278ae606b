"""Find the tenant's program: the object that its manifest's `entry` names."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

_entry = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?").fullmatch


class CannotLoad(Exception):
    """The program isn't there, or isn't one; the text says what to change."""


def find(entry: str, paths: Sequence[str]) -> Callable[..., Any]:
    """Import "module:attribute" with `paths` first on sys.path, and return what it names.

    "module:attribute()" names a factory, as for gunicorn and uvicorn: what it returns is the program.

    Raises CannotLoad when there is no such module or attribute, or it can't be called. What the module itself raises
    while it is imported, or the factory, comes through unchanged, with its traceback.
    """
    if not _entry(entry):
        raise CannotLoad(f'entry = "{entry}": expected "module:attribute", for example "main:app"')
    for path in reversed(paths):
        if path not in sys.path:
            sys.path.insert(0, path)
    name, _, attribute = entry.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A missing dependency of the program is the program's own error.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise CannotLoad(_no_module(entry, error.name, paths)) from error
    found: Any = module
    for part in attribute.removesuffix("()").split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = _like(part, [word for word in dir(found) if not word.startswith("__")])
            raise CannotLoad(f'entry = "{entry}": there is no {part!r} in {name}{close}') from None
    if not callable(found):
        raise CannotLoad(f'entry = "{entry}": that is a {type(found).__name__}, which can\'t be called')
    if not entry.endswith("()"):
        return found  # type: ignore[no-any-return]
    made = found()
    if not callable(made):
        raise CannotLoad(f'entry = "{entry}": that returns a {type(made).__name__}, which can\'t be called')
    return made  # type: ignore[no-any-return]


def _no_module(entry: str, missing: str, paths: Sequence[str]) -> str:
    there = []
    for path in paths[:1]:
        for file in sorted(os.listdir(path)) if os.path.isdir(path) else []:
            base, extension = os.path.splitext(file)
            module = extension == ".py" or (not extension and os.path.isdir(f"{path}/{file}"))
            if module and base.isidentifier() and base != "__pycache__":
                there.append(base)
    hint = _like(missing.rpartition(".")[2], there)
    if not hint and there:
        hint = f"; the release has {', '.join(there[:8])}"
    return f'entry = "{entry}": there is no module {missing!r} in the release{hint}'


def _like(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
