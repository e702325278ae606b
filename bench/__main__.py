"""`python -m bench`: every row, in one run; the table goes to standard output and into PROMISES.md.

With --quick it takes a minute, and only prints. With names of sections, only those, and only prints.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable

from bench import (
    asleep,
    crowd,
    footprint,
    instances,
    introductions,
    machine,
    operating,
    promises,
    serving,
    sites,
    starting,
)
from bench.rows import Row, table
from bench.stand import APPS, QUICK, Effort, Missing, Stand

Section = Callable[[Stand, Effort], Iterable[Row]]

# A hundred services come last: the rows before them are of a node that runs a few.
SECTIONS: dict[str, Section] = {
    "operating": operating.rows,
    "starting": starting.rows,
    "footprint": footprint.rows,
    "introductions": lambda stand, effort: introductions.rows(),
    "serving": serving.rows,
    "sites": sites.rows,
    "crowd": crowd.rows,
    "instances": instances.rows,
    "hundred": starting.hundred,
    "asleep": asleep.rows,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure everything, side by side with its peers.")
    parser.add_argument("--quick", action="store_true", help="about one minute; prints only")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"only these: {', '.join(SECTIONS)}")
    args = parser.parse_args()
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    effort = QUICK if args.quick else Effort()
    busy = os.getloadavg()[0]
    rows, failed = _measure(args.sections or list(SECTIONS), effort)
    text = f"{machine.describe(busy)}\n\n{table(rows)}"
    print(text)
    if not (args.quick or args.sections or failed):
        promises.write(text)
        print(f"\nbench: written into {promises.PAGE.name}", file=sys.stderr)
    return int(failed)


def _measure(names: list[str], effort: Effort) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    failed = False
    with Stand() as stand:
        for app in ("small", "fast", "threads"):
            stand.publish(APPS / app)
        for name in names:
            began = time.monotonic()
            try:
                rows.extend(SECTIONS[name](stand, effort))
            except Missing as missing:
                rows.append(Row(name, f"not measured: {missing}"))
            except Exception as error:  # one section's trouble is not the others'
                traceback.print_exc()
                rows.append(Row(name, f"not measured: {str(error).partition(chr(10))[0]}"))
                failed = True
            print(f"bench: {name}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows, failed


if __name__ == "__main__":
    sys.exit(main())
