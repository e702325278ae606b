"""`fildes owner`: who may publish here beside the operators."""

from __future__ import annotations

import argparse
import pwd

from fildes.cli import _render
from fildes.cli._client import Client
from fildes.cli._shared import Trouble, state_of

HELP = "let users of this machine publish as owners: fildes owner add anna alice"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", metavar="add NAME USER | rm USER", nargs="*", help="without one: who stands for which owner"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    with Client(state_of(args)) as node:
        match args.action:
            case []:
                _list(node, args.json)
            case ["add", name, user]:
                node.ask("owner-add", {"owner": name, "uid": _uid(user)})
                print(f"{user} may publish as {name}; what that allows: fildes policy {name}")
            case ["rm", user]:
                node.ask("owner-rm", {"uid": _uid(user)})
                print(f"{user} may not ask any more; what was published stays")
            case _:
                raise Trouble("write: fildes owner add NAME USER, fildes owner rm USER, or fildes owner")
    return 0


def _list(node: Client, as_json: bool) -> None:
    value, _ = node.ask("owners", {})
    if as_json:
        _render.print_json(value)
        return
    rows = [[login["owner"], _name(login["uid"]), login["uid"]] for login in value["logins"]]
    print(
        _render.table(["OWNER", "USER", "UID"], rows)
        if rows
        else "nobody but the operators: fildes owner add NAME USER"
    )


def _uid(user: str) -> int:
    """Of a user's name, or of a number. Raises Trouble."""
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise Trouble(f"{user}: this machine has no such user; `getent passwd` lists them") from error


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
