"""Who may ask what at the operator's door. Pure.

Operators are root and who ran `fildes up`. An owner is who an operator has said so of (`fildes owner add`): a uid of
this machine, which may ask what is in OWNERS, of its own services.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

DEFAULT_OWNER: Final = "local"  # of what an operator publishes without saying for whom


class Share(Enum):
    """How it is seen to that an owner's question is about what is the owner's."""

    SERVICE = auto()  # the body's "service" has to be one of theirs
    KEPT = auto()  # as OWNER: what a service keeps is its owner's still when the service is there no more
    OWNER = auto()  # the body's "owner" is set to them; whoever answers checks the rest
    LIST = auto()  # the answer is of everything: the verb itself leaves out what is not theirs


OWNERS: Final[Mapping[str, Share]] = MappingProxyType(
    {
        "ps": Share.LIST,
        "whoami": Share.LIST,
        "publish": Share.OWNER,
        "secret-set": Share.OWNER,
        "secret-list": Share.OWNER,
        "secret-rm": Share.OWNER,
        "gc": Share.OWNER,
        "policy": Share.LIST,
        "logs": Share.SERVICE,
        "caps": Share.SERVICE,
        "releases": Share.SERVICE,
        "rollback": Share.SERVICE,
        "stop": Share.SERVICE,
        "start": Share.SERVICE,
        "freeze": Share.SERVICE,
        "thaw": Share.SERVICE,
        "run": Share.SERVICE,
        "rm": Share.KEPT,
        "explain": Share.SERVICE,
        "plan": Share.SERVICE,
        "lock": Share.SERVICE,
        "repack": Share.SERVICE,
        "db-list": Share.KEPT,
        "db-backup": Share.KEPT,
        "db-restore": Share.SERVICE,
    }
)


def is_operator(uid: int, operator: int, overflow: int) -> bool:
    """The overflow uid is everybody whose number our user namespace does not know: it is nobody, even where an
    operator happens to have that number."""
    return uid != overflow and uid in (0, operator)


def share_of(verb: str, body: object) -> Share | None:
    """How an owner may ask `verb`; None: not at all."""
    share = OWNERS.get(verb)
    if share in (Share.SERVICE, Share.KEPT) and not (isinstance(body, dict) and isinstance(body.get("service"), str)):
        return None  # without a service these are about everything
    return share
