"""`fildes doctor`: what this kernel and this user allow, what is lost without it, and what to do about it."""

from __future__ import annotations

import argparse
import textwrap

HELP = "say what this machine allows, and what is lost without it: fildes doctor"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """0 unless the main job can't run here: to publish a folder and have it answer, confined."""
    from fildes.cli import _checks

    checks = list(_checks.run())
    works = all(check.ok for check in checks if check.essential)
    if args.json:
        import json

        print(json.dumps({"works": works, "checks": [check._asdict() for check in checks]}, indent=2))
        return 0 if works else 1
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.essential else "without"
        print(f"{mark:<8}{check.name:<14}{check.found}")
        if not check.ok:
            _say("lost", check.lost)
            _say("to do", check.remedy)
    print("Fildes runs here." if works else "Fildes can't run here: see MISSING above.")
    return 0 if works else 1


def _say(word: str, text: str) -> None:
    print(textwrap.fill(f"{word}: {text}", 100, initial_indent=" " * 22, subsequent_indent=" " * 24))
