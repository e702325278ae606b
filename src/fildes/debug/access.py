"""Who may ask what at the operator's door. Pure."""

from __future__ import annotations

from typing import Final

OPERATOR: Final = "operator"
DEFAULT_OWNER: Final = "local"  # of what an operator publishes without saying for whom


def role_of(uid: int, operator: int, overflow: int) -> str | None:
    """The role of a peer with this uid, None: refused. Operators are root and who ran `fildes up`.

    The overflow uid is everybody whose number our user namespace does not know: it is nobody, even where an operator
    happens to have that number.
    """
    if uid == overflow:
        return None
    return OPERATOR if uid in (0, operator) else None
