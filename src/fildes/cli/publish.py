"""`fildes publish DIR`: a folder becomes a service, or a new release of one."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from typing import Any

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of
from fildes.kernel import memfd

HELP = "publish a folder: fildes publish examples/guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder, with a fildes.toml or with plain pages")
    parser.add_argument("--name", metavar="N", help="the service's name, for a folder without fildes.toml (pages)")
    parser.add_argument("--owner", metavar="WHO", help="whom the service belongs to (default: local)")
    parser.add_argument("--upgrade", action="store_true", help="look for newer versions of what is not pinned")
    parser.add_argument(
        "--lock",
        action="store_true",
        help="write the versions taken to DIR/requirements.lock: from then on they are what is published, anywhere",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object when done, and nothing before")


def run(args: argparse.Namespace) -> int:
    from fildes.cli import _folder

    watch = Watch(quiet=args.json)
    with Client(state_of(args)) as node:
        packed = _folder.pack(args.folder)
        watch.note("upload", packed.words(), watch.ms())
        body = {
            "name": args.name,
            "owner": args.owner,
            "upgrade": args.upgrade,
            "lock": args.lock,
            "folder": os.path.basename(os.path.abspath(args.folder)),
        }
        published, _ = node.ask("publish", body, [packed.fd], watch.note)
        lock = _keep_lock(node, published["service"], args.folder) if args.lock else None
    watch.conclude(published)
    if args.json:
        _render.print_json(published | {"phases": watch.phases, "ms": watch.ms()} | ({"lock": lock} if lock else {}))
    elif lock:
        print(lock)
    return 0


class Watch:
    """Shows a publish as it goes on; `quiet`: only remembers. Phases in milliseconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._began, self._quiet = time.monotonic(), quiet
        self.phases: dict[str, float] = {}

    def ms(self) -> float:
        return round((time.monotonic() - self._began) * 1000, 3)

    def note(self, phase: str, text: str, ms: float) -> None:
        if ms < 0:
            if not self._quiet:
                print(_begun(phase, text), flush=True)
            return
        if phase != "note":
            self.phases[phase] = round(self.phases.get(phase, 0.0) + ms, 3)
        if not self._quiet:
            print(_line(phase, text, ms), flush=True)

    def conclude(self, published: dict[str, Any]) -> None:
        # Phases of others, told with the answer; "warm.import" is a part of "warm".
        for phase, ms in published["phases"].items():
            if "." not in phase and phase not in self.phases:
                parts = [
                    f"{name[len(phase) + 1 :]} {_render.milliseconds(of)}"
                    for name, of in published["phases"].items()
                    if name.startswith(phase + ".")
                ]
                self.note(phase, ", ".join(parts) or _MEANING.get(phase, ""), ms)
        self.phases |= published["phases"]
        if not self._quiet:
            what = "unchanged" if published["unchanged"] else "published"
            print(f"{published['service']}: {what}, release {published['release']}, "
                  f"{_render.milliseconds(self.ms())} in all")  # fmt: skip
            for url in published["urls"]:
                print(url)
            self.replaced(published)

    def replaced(self, published: dict[str, Any]) -> None:
        """The release that was current before goes on for a while."""
        if published["replaced"] and not self._quiet:
            print(f"release {published['replaced']} takes nothing new; what it has begun has {DRAIN} s")


def _keep_lock(node: Client, service: str, folder: str) -> str:
    """Write the lock of the service's release beside its manifest; in words what was done."""
    _, fds = node.ask("lock", {"service": service})
    if not fds:
        own = next((name for name in _LOCKS if os.path.exists(os.path.join(folder, name))), None)
        return f"{own} is this folder's lock already" if own else "nothing to lock: there are no dependencies"
    with fds[0] as sealed:
        lock = memfd.read_sealed(sealed.fileno(), 16 << 20)
    path = os.path.join(folder, LOCK)
    try:
        with open(path, "rb") as file:
            if file.read() == lock:
                return f"{path}: as it was"
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror}; it was published, and the lock could not be written") from error
    partial = f"{path}.{os.getpid()}"
    try:
        with open(partial, "xb") as file:
            file.write(lock)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise Trouble(f"{path}: {error.strerror}; it was published, and the lock could not be written") from error
    return f"{path}: written; keep it with the sources"


LOCK = "requirements.lock"
_LOCKS = ("pylock.toml", "uv.lock", "requirements.txt")
_MEANING = {
    "check": "the manifest against the owner's policy",
    "store": "bundle and pack",
    "warm": "loaded, confined, one instance started",
    "switch": "the current release now",
}


DRAIN = 30  # seconds; the orchestrator's


def _begun(phase: str, text: str) -> str:
    """What is waited for; or, of no phase, what a command of the release printed."""
    if not phase:
        return "\n".join(f"    {line}" for line in text.splitlines())
    return f"  \x1b[2m… {phase:<10} {text}\x1b[0m" if sys.stdout.isatty() else f"{phase:<12} {text} …"


def _line(phase: str, text: str, ms: float) -> str:
    took = _render.milliseconds(ms)
    if sys.stdout.isatty():
        return f"  \x1b[32m✓\x1b[0m {phase:<10} {text:<50} \x1b[2m{took:>8}\x1b[0m"
    return f"{phase:<12} {text:<50} {took:>8}"
