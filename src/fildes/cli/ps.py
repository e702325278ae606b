"""`fildes ps`: services and their instances, and what the node itself runs."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fildes.cli import _render
from fildes.cli._client import Client, pids_of
from fildes.cli._shared import state_of

HELP = "list services and instances: fildes ps --all"

QUIET = 500  # services without processes that the table shows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", nargs="?", default="", help="only this service")
    parser.add_argument("--all", action="store_true", help="the node's own processes too")
    parser.add_argument("--json", action="store_true", help='{"services": […], "daemons": […]}')


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        asked = {"service": args.service, "all": args.all or args.json, "quiet": None if args.json else QUIET}
        value, fds = node.ask("ps", asked)
    _put_pids(value, pids_of(value, fds))
    if args.json:
        _render.print_json({"services": value["services"], "daemons": value["daemons"]})
        return 0
    print(services(value["services"], time.time()))
    if value["more"]:
        print(f"\nand {value['more']} more without processes; all of them: fildes ps --json")
    for service in value["services"]:
        if service.get("kept"):
            kept = [f"{item['grant']} ({item['kind']}) {_render.size(item['size'])}" for item in service["kept"]]
            print(f"\nit keeps {', '.join(kept)}")
    if args.all:
        rows = [[d["name"], d["state"], d["pid"], d["restarts"] or ""] for d in value["daemons"]]
        print("\n" + _render.table(["DAEMON", "STATE", "PID", "RESTARTS"], rows))
    return 0


def _put_pids(value: dict[str, Any], pids: list[int | None]) -> None:
    """The answer lists places among its pidfds; we want pids as they are here."""

    def pid(place: int | None) -> int | None:
        return pids[place] if place is not None and 0 <= place < len(pids) else None

    for service in value["services"]:
        service["zygote"] = pid(service["zygote"])
        for instance in [*service["instances"], *service["commands"]]:
            instance["pid"] = pid(instance["pid"])
    for daemon in value["daemons"]:
        daemon["pid"] = pid(daemon["pid"])


def services(listed: list[dict[str, Any]], now: float) -> str:
    """The table of services, a line for each instance below its service, and why something is as it is."""
    if not listed:
        return "no services; publish one: fildes publish DIR"
    rows: list[list[object]] = []
    for service in listed:
        crashes = f", {service['crashes']} crashes" if service["crashes"] else ""
        url = (service.get("urls") or service["hosts"] or [""])[0]
        starts = f"{service['starts']}{crashes}"
        rows.append([service["service"], service["state"], service["runtime"], _staff(service), "", "", starts, url])
        for instance in [*service["instances"], *service["commands"]]:
            what = "command" if instance in service["commands"] else ""
            memory, age = _render.size(instance["memory"]), _render.span(now - instance["started"])
            rows.append([f"  {instance['id']}", age, what, _stage(instance), instance["pid"], memory])
    head = ["SERVICE", "STATE", "RUNTIME", "INSTANCES", "PID", "MEMORY", "STARTS", "URL"]
    # A note is a sentence: it stands below the table, not in a column as wide as itself.
    notes = [f"{service['service']}: {service['note']}" for service in listed if service["note"]]
    table = _render.table(head, [row + [""] * (8 - len(row)) for row in rows])
    return "\n".join([table, *([""] if notes else []), *notes])


def _staff(service: dict[str, Any]) -> str:
    """How many of how many: 2/3; 1/2, 1 spare."""
    if not service["most"]:
        return ""
    spares = f", {_render.count(service['spares'], 'spare')}" if service["spares"] else ""
    return f"{len(service['instances'])}/{service['most']}{spares}"


def _stage(instance: dict[str, Any]) -> str:
    """What is worth a word: most are open."""
    return "" if instance["stage"] == "open" else str(instance["stage"])
