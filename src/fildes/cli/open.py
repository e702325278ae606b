"""`fildes open NAME`: the service's address, and a browser on it where there is one."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping

from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of
from fildes.kernel.fds import close_all

HELP = "open a service in the browser: fildes open guestbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the address, and open nothing")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        value, fds = node.ask("ps", {"service": args.service, "all": False})
    close_all(fds)
    [service] = value["services"]
    if not service["urls"]:
        what = "it has no HTTP" if service["runtime"] == "service" else "it is offered to other services only"
        raise Trouble(f"{args.service} has no address to open: {what}")
    url = str(service["urls"][0])
    print(url, flush=True)
    if args.only_print:
        return 0
    command, why = browser(os.environ)
    if not command:
        print(f"fildes: {why}", file=sys.stderr)
        return 0
    try:
        _start(command, url)
    except OSError as error:
        print(f"fildes: {command[0]}: {error.strerror}; open the address yourself", file=sys.stderr)
    return 0


def browser(environ: Mapping[str, str]) -> tuple[list[str], str]:
    """(the command that opens an address, why there is none). $BROWSER first, as xdg-open(1) has it."""
    path = environ.get("PATH")
    for choice in environ.get("BROWSER", "").split(os.pathsep):
        try:
            words = shlex.split(choice)
        except ValueError:
            continue
        if words and shutil.which(words[0], path=path):
            return words, ""
    if not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        return [], "there is no display here, so no browser was opened; open the address where you have one"
    if shutil.which("xdg-open", path=path):
        return ["xdg-open"], ""
    return [], "neither $BROWSER nor xdg-open is there, so no browser was opened; open the address yourself"


def _start(command: list[str], url: str) -> None:
    # %s is where the address goes, if the command says so (xdg-open(1)).
    words = [word.replace("%s", url) for word in command]
    if words == command:
        words.append(url)
    child = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    child.returncode = 0  # not waited for, nor warned about: the first browser stays
