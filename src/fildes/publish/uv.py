"""How uv is called, and what its errors mean for who published. Pure: argument lists, environments, sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

TIMEOUT: Final = 30  # seconds that an index may be silent
RETRIES: Final = 2

_COMMON: Final = ("--no-config", "--no-progress", "--color", "never", "--no-python-downloads")
_WHEELS: Final = ("--only-binary", ":all:", "--link-mode", "copy")


def lock_command(uv: str, python: str, cache: str, source: str, target: str) -> list[str]:
    """Resolve `source` (checked requirement lines) into the hashed lock `target`, from wheels' metadata only."""
    return [
        uv, "pip", "compile", *_COMMON, "--quiet", "--cache-dir", cache, "--python", python,
        "--generate-hashes", "--only-binary", ":all:", "--no-annotate", "--no-header", "--no-emit-package", "fildes",
        "--output-file", target, source,
    ]  # fmt: skip


def install_command(uv: str, python: str, cache: str, lock: str, target: str) -> list[str]:
    """Install what `lock` says, byte for byte, into the directory `target`."""
    return [
        uv, "pip", "install", *_COMMON, "--quiet", "--cache-dir", cache, "--python", python,
        "--require-hashes", "--no-deps", *_WHEELS, "--target", target, "-r", lock,
    ]  # fmt: skip


def environment(index: dict[str, Any], proxy: str, home: str) -> dict[str, str]:
    """The whole environment of uv: the indexes, the way to them, and nothing of the node's own."""
    urls: Sequence[str] = index.get("urls", ())
    found = {
        "HOME": home,
        "TMPDIR": home,
        "PATH": "/nonexistent",
        "LANG": "C.UTF-8",
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
        "ALL_PROXY": proxy,
        "UV_HTTP_TIMEOUT": str(index.get("timeout", TIMEOUT)),
        "UV_HTTP_RETRIES": str(index.get("retries", RETRIES)),
        "UV_CONCURRENT_DOWNLOADS": "8",
        "UV_CONCURRENT_INSTALLS": "2",
        "RAYON_NUM_THREADS": "2",
        "TOKIO_WORKER_THREADS": "2",
    }
    if urls:
        found["UV_DEFAULT_INDEX"] = urls[0]
    if urls[1:]:
        found["UV_INDEX"] = " ".join(urls[1:])
    if index.get("ca"):
        found["SSL_CERT_FILE"] = str(index["ca"])
    return found


_URL: Final = re.compile(r"https?://(?:[^/@\s`]*@)?([^/\s`)]+)")
_HASH: Final = re.compile(r"Hash mismatch for `([^`]+)`")
_STATUS: Final = re.compile(r"HTTP status (?:server|client) error \((\d{3}[^)]*)\)")
_UNKNOWN: Final = re.compile(r"[Bb]ecause (\S+) was not found in the package registry")
_WHEEL: Final = re.compile(
    r"(?i)no (?:usable|compatible|matching) wheels|no wheels|building source distributions|pre-built|has no wheel"
)
_LATER: Final = "nothing was changed, and what is published goes on; try again later"

# What of uv's output means which trouble with the index, the surest first.
_TROUBLES: Final = (
    (re.compile(r"(?i)end of file before message length|error reading a body|unexpected eof|incomplete|truncated"),
     "breaks off in the middle of an answer"),
    (re.compile(r"(?i)timed? ?out"), "does not answer in time"),
    (re.compile(r"(?i)dns error|name resolution|not known"), "has a name that can't be looked up"),
    (re.compile(r"(?i)connection refused|tcp connect|error sending request|tunnel|connect error|failed to fetch"),
     "can't be reached"),
)  # fmt: skip


def explain(said: str, source: str) -> str:
    """A sentence about uv's output `said` for the requirements in `source`, with what to do about it."""
    lines = [line.strip(" ╰─▶×│├·").removeprefix("error: ").removeprefix("cause: ") for line in said.splitlines()]
    text = re.sub(r"(https?://)[^/@\s`]*@", r"\1", " ".join(filter(None, lines)))[:1500]
    text = text.removeprefix("No solution found when resolving dependencies ")
    if "No space left on device" in said:
        return "the disk that holds the node's state is full: nothing was changed; free some space and publish again"
    mismatch = _HASH.search(said)
    if mismatch is not None:
        return (
            f"{source}: {mismatch[1]}: the index gives another file than the one that was locked, so it is not "
            f"installed. If that file was replaced on purpose, lock anew: fildes publish DIR --upgrade --lock; "
            f"if not, the index or the way to it is not to be trusted ({text})"
        )
    if "403" in said and "tunnel" in said.lower():
        return _elsewhere(said, source, text)
    status = _STATUS.search(said)
    if status is not None and status[1].startswith("502") and "can't be reached" not in said:
        return f"{source}: the package index ({_host(said)}) can't be reached from this node; {_LATER} ({text})"
    if status is not None and status[1].startswith("403"):
        return _elsewhere(said, source, text)
    if status is not None:
        return f"{source}: the package index ({_host(said)}) answers {status[1]}; {_LATER} ({text})"
    unknown = _UNKNOWN.search(said)
    if unknown is not None:
        return (
            f"{source}: {unknown[1]} is not in this node's package index; look at how it is written, or start the node "
            f"with the index that has it: fildes up --index URL ({text})"
        )
    if _WHEEL.search(said):
        return (
            f"{source}: {text}; a package is installed from wheels only: choose a version that has one for this "
            f"interpreter and machine; versions of a lock are chosen anew by: fildes publish DIR --upgrade --lock"
        )
    for pattern, what in _TROUBLES:
        if pattern.search(said) and "not found in the package registry" not in said:
            return f"{source}: the package index ({_host(said)}) {what}; {_LATER}, or see: fildes doctor ({text})"
    return f"{source}: {text or 'the packages could not be resolved'}"


def _elsewhere(said: str, source: str, text: str) -> str:
    return (
        f"{source}: the index sends for files to {_host(said)}, which this node does not reach; "
        f"if it belongs to the index, start the node with: fildes up --index-host HOST ({text})"
    )


def _host(said: str) -> str:
    return ", ".join(sorted(set(_URL.findall(said)))) or "that host"
