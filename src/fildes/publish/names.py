"""What a path inside an upload may look like. Pure: bytes and strings, no I/O."""

from __future__ import annotations

from typing import Final

MAX_NAME: Final = 255  # bytes of one component: NAME_MAX, limits.h
MAX_PATH: Final = 1024  # bytes of a whole path inside the upload
MAX_DEPTH: Final = 64


class Rejected(Exception):
    """The upload is at fault. The text names the file (and line, where there is one) and the remedy."""


def shown(name: str) -> str:
    """A name for an error message: never raw control characters or undecodable bytes."""
    return ascii(name)[1:-1] if not name.isprintable() else name


def split(name: str) -> tuple[str, ...]:
    """The components of an archive member's name; () is the folder itself.

    Raises Rejected for absolute paths, `..`, names that are not UTF-8 (tarfile marks them with surrogates),
    control characters, and what is too long or too deep for any file system.
    """
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError as error:
        text = f"{name!a}: the file's name is not UTF-8; rename it (for example with convmv) and publish again"
        raise Rejected(text) from error
    if name.startswith("/"):
        raise Rejected(f"{shown(name)}: an absolute path; only paths inside the folder can be published")
    if len(encoded) > MAX_PATH:
        raise Rejected(f"{shown(name[:80])}…: a path of {len(encoded)} bytes; at most {MAX_PATH} are allowed")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise Rejected(f"{shown(name)}: '..' leads out of the folder; publish the folder that holds everything")
    if len(parts) > MAX_DEPTH:
        raise Rejected(f"{shown(name[:80])}…: {len(parts)} folders deep; at most {MAX_DEPTH} are allowed")
    for part in parts:
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in part):
            raise Rejected(f"{shown(name)}: a control character in the name; rename the file")
        if len(part.encode()) > MAX_NAME:
            raise Rejected(f"{shown(part[:80])}…: a name of more than {MAX_NAME} bytes; shorten it")
    return parts


def follow(where: tuple[str, ...], target: str, links: dict[tuple[str, ...], str]) -> tuple[str, ...]:
    """Where the symlink `where` → `target` ends, walking through `links` (path → target) as the kernel would.

    Raises Rejected when any step leaves the folder, or when links go in circles.
    """
    name = "/".join(where)
    here = list(where[:-1])
    todo = _steps(name, target)
    for _ in range(40 * MAX_DEPTH):  # path_resolution(7) gives up after 40 links
        if not todo:
            return tuple(here)
        step = todo.pop(0)
        if step == "..":
            if not here:
                raise Rejected(
                    f"{shown(name)}: a symlink that leads out of the folder (to {shown(target)}); "
                    "replace it by a copy of what it points to"
                )
            here.pop()
            continue
        here.append(step)
        further = links.get(tuple(here))
        if further is not None:
            here.pop()
            todo[:0] = _steps(name, further)
    raise Rejected(f"{shown(name)}: symlinks that go in circles; remove one of them")


def _steps(name: str, target: str) -> list[str]:
    if target.startswith("/"):
        raise Rejected(
            f"{shown(name)}: a symlink to the absolute path {shown(target)}; "
            "make it relative and inside the folder, or replace it by a copy"
        )
    try:
        target.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Rejected(f"{shown(name)}: the symlink's target is not UTF-8; replace it by a copy") from error
    if not target or len(target) > MAX_PATH:
        raise Rejected(f"{shown(name)}: the symlink's target is empty or too long; replace it by a copy")
    return [part for part in target.split("/") if part not in ("", ".")]
