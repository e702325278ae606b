"""`fildes caps NAME`: what each process of a service holds, read from the kernel, and why."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from fildes.cli import _render
from fildes.cli._client import Client, pids_of
from fildes.cli._shared import state_of

HELP = "show the descriptors that a service holds: fildes caps guestbook"
UNEXPLAINED = "UNEXPLAINED"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, fds = node.ask("caps", {"service": args.service})
    pids = pids_of(value, fds)
    connections: dict[str, str] | None = None
    for process in value["processes"]:
        place = process["pid"]
        process["pid"] = pids[place] if 0 <= place < len(pids) else None
        own = _own_sockets(process["pid"])
        for entry in process["fds"]:
            if not entry["why"] and entry["kind"] == "socket":
                entry["why"] = own.get(entry["target"], "")
                if not entry["why"]:
                    # Not before it is needed: a busy machine has tens of thousands of connections.
                    connections = _connections() if connections is None else connections
                    entry["why"] = connections.get(entry["target"], "")
    del value["pidfds"]
    if args.json:
        _render.print_json(value)
    else:
        print(shown(value))
    return 0


def shown(value: dict[str, Any]) -> str:
    grants = ", ".join(_grant(grant) for grant in value["grants"]) or "none"
    lines = [f"{value['service']}: {value['runtime']}, {value['state']}; grants: {grants}"]
    if not value["processes"]:
        lines.append(
            "no process of it runs" + ("" if value["runtime"] == "static" else "; the next request starts one")
        )
    for process in value["processes"]:
        lines += ["", f"{process['name']}, pid {process['pid'] or 'unknown'}"]
        if process["error"]:
            lines.append(f"  {process['error']}")
        if process["fds"]:
            rows = [[entry["fd"], entry["target"], entry["why"] or UNEXPLAINED] for entry in process["fds"]]
            lines.append(_render.table(["FD", "WHAT", "WHY"], rows, indent="  "))
    return "\n".join(lines)


def _grant(grant: dict[str, Any]) -> str:
    kind = "" if grant["kind"] == grant["name"] else f" ({grant['kind']})"
    return f"{grant['name']}{kind}" + (f" → {grant['to']}" if grant.get("to") else "")


def _own_sockets(pid: int | None) -> dict[str, str]:
    """Unix sockets made inside the process's own network namespace, which is empty: they lead nowhere but to itself."""
    if pid is None:
        return {}
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return {}  # it shares ours: nothing follows
        with open(f"/proc/{pid}/net/unix", encoding="utf-8", errors="replace") as file:
            rows = [line.split() for line in file][1:]
    except OSError:
        return {}
    return {f"socket:[{row[6]}]": "its own: a pair inside its network namespace" for row in rows if len(row) > 6}


def _connections() -> dict[str, str]:
    """ "socket:[inode]" → what the machine's TCP tables say of it: connections that the door handed over, or that the
    net driver opened (proc_pid_net(5))."""
    found: dict[str, str] = {}
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/self/net/{name}", encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        for row in rows:
            if len(row) > 9 and row[9] != "0":
                found[f"socket:[{row[9]}]"] = f"connection {_address(row[1])} ↔ {_address(row[2])}"
    return found


def _address(text: str) -> str:
    """ "0100007F:1F90" → "127.0.0.1:8080": the kernel prints 32-bit words in the machine's byte order."""
    import ipaddress

    words, _, port = text.partition(":")
    data = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    address = ipaddress.ip_address(data)
    mapped = getattr(address, "ipv4_mapped", None)
    shown = f"[{address}]" if address.version == 6 and mapped is None else str(mapped or address)
    return f"{shown}:{int(port, 16)}"
