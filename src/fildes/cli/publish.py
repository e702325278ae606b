"""`fildes publish DIR`: a folder becomes a service, or a new release of one."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import state_of

HELP = "publish a folder: fildes publish examples/guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder, with a fildes.toml or with plain pages")
    parser.add_argument("--name", metavar="N", help="the service's name, for a folder without fildes.toml (pages)")
    parser.add_argument("--owner", metavar="WHO", help="whom the service belongs to (default: local)")
    parser.add_argument("--upgrade", action="store_true", help="look for newer versions of requirements.txt's packages")
    parser.add_argument("--json", action="store_true", help="print one JSON object when done, and nothing before")


def run(args: argparse.Namespace) -> int:
    from fildes.cli import _folder

    began = time.monotonic()
    phases: dict[str, float] = {}

    def note(phase: str, text: str, ms: float) -> None:
        phases[phase] = round(ms, 3)
        if not args.json:
            print(_line(phase, text, ms), flush=True)

    with Client(state_of(args)) as node:
        packed = _folder.pack(args.folder)
        text = f"{packed.files} files, {_render.size(packed.size)}"
        note("upload", text, (time.monotonic() - began) * 1000)
        body = {"name": args.name, "owner": args.owner, "upgrade": args.upgrade}
        published, _ = node.ask("publish", body, [packed.fd], note)
    # Phases of others, told with the answer; "warm.import" is a part of "warm".
    for phase, ms in published["phases"].items():
        if "." not in phase and phase not in phases:
            parts = [f"{name[len(phase) + 1:]} {_render.milliseconds(of)}" for name, of in published["phases"].items()
                     if name.startswith(phase + ".")]  # fmt: skip
            note(phase, ", ".join(parts) or _MEANING.get(phase, ""), ms)
    phases |= published["phases"]
    total = (time.monotonic() - began) * 1000
    if args.json:
        _render.print_json(published | {"phases": phases, "ms": round(total, 3)})
    else:
        _conclude(published, total)
    return 0


_MEANING = {
    "check": "the manifest against the owner's policy",
    "store": "bundle and pack",
    "warm": "loaded, confined, one instance started",
    "switch": "the current release now",
}


def _line(phase: str, text: str, ms: float) -> str:
    took = _render.milliseconds(ms)
    if sys.stdout.isatty():
        return f"  \x1b[32m✓\x1b[0m {phase:<10} {text:<50} \x1b[2m{took:>8}\x1b[0m"
    return f"{phase:<12} {text:<50} {took:>8}"


def _conclude(published: dict[str, Any], total: float) -> None:
    what = "unchanged" if published["unchanged"] else "published"
    print(f"{published['service']}: {what}, release {published['release']}, {_render.milliseconds(total)} in all")
    for url in published["urls"]:
        print(url)
