"""How uv is called, and what its errors mean for who published. Pure: argument lists, environments, sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from fildes.publish.lockfile import LOCK

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
        "UV_HTTP_TIMEOUT": "60",
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


_NETWORK: Final = re.compile(r"(?i)failed to fetch|error sending request|tunnel|timed? ?out|dns error|connect")
_URL: Final = re.compile(r"https?://(?:[^/@\s`]*@)?([^/\s`]+)")
_HASH: Final = re.compile(r"Hash mismatch for `([^`]+)`")
_WHEEL: Final = re.compile(
    r"(?i)no (?:usable|compatible|matching) wheels|no wheels|building source distributions|pre-built"
)


def explain(said: str, source: str) -> str:
    """A sentence about uv's output `said` for the requirements in `source`, with what to do about it."""
    text = " ".join(line.strip(" ╰─▶×│├·") for line in said.strip().splitlines() if line.strip(" ╰─▶×│├·"))
    text = re.sub(r"(https?://)[^/@\s`]*@", r"\1", text)[:1500]
    if "No space left on device" in said:
        return "the disk that holds the node's state is full: nothing was changed; free some space and publish again"
    mismatch = _HASH.search(said)
    if mismatch is not None:
        return f"{source}: {mismatch[1]} is not the file that was locked ({text}); remove {LOCK} if that is meant to be"
    if "403" in said and "tunnel" in said.lower():
        hosts = ", ".join(sorted(set(_URL.findall(said)))) or "that host"
        return (
            f"{source}: the index sends for files to {hosts}, which this node does not reach; "
            f"if it belongs to the index, start the node with: fildes up --index-host HOST ({text})"
        )
    if _WHEEL.search(said):
        return (
            f"{source}: {text}; a package is installed from wheels only: choose a version that has one for this "
            "interpreter and machine"
        )
    if _NETWORK.search(said) and "not found in the package registry" not in said:
        return f"{source}: the package index could not be reached; try again, or see: fildes doctor ({text})"
    return f"{source}: {text or 'the packages could not be resolved'}"
