"""Paths at which a grant may put something for a program to find."""

from __future__ import annotations

from typing import Final

_TAKEN: Final = ("/tmp", "/dev", "/proc", "/sys", "/run", "/usr", "/lib", "/lib64", "/bin", "/etc", "/fildes", "/deps")
LONGEST: Final = 480  # bytes: the trap's room for a path, less "-journal"


def problem(path: str) -> str:
    """What is wrong with `path` as the place of something granted; "" if nothing is."""
    parts = path.split("/")
    if not path.startswith("/") or "\0" in path or len(path.encode(errors="surrogatepass")) > LONGEST:
        return f'must be an absolute path of at most {LONGEST} bytes, such as "/data/app.sqlite3"'
    if any(part in ("", ".", "..") for part in parts[1:]):
        return "must be written without '//', '.', '..' and a '/' at its end"
    if any(len(part.encode(errors="surrogatepass")) > 200 for part in parts):
        return "has a part of more than 200 bytes"
    if path in ("/app", *_TAKEN) or path.startswith(tuple(f"{taken}/" for taken in _TAKEN)):
        return f"may not lie in {', '.join(_TAKEN)}: those places are the system's; /data/NAME is a good one"
    return ""
