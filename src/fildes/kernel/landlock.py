"""Landlock (landlock(7)): a process gives up, for itself and its descendants, TCP and reaching outward.

Only denials without exceptions are made here: no rule is ever added, so whatever is handled is refused.
"""

from __future__ import annotations

import ctypes
from typing import Final

from fildes.kernel.fds import Fd
from fildes.kernel.libc import syscall

LANDLOCK_CREATE_RULESET_VERSION: Final = 1
LANDLOCK_ACCESS_NET_BIND_TCP: Final = 1  # ABI 4, Linux 6.7
LANDLOCK_ACCESS_NET_CONNECT_TCP: Final = 2
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1  # ABI 6, Linux 6.12
LANDLOCK_SCOPE_SIGNAL: Final = 2

ACCESS_NET_ALL: Final = LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP
SCOPE_ALL: Final = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL


class _RulesetAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("handled_access_fs", "handled_access_net", "scoped")]


def abi() -> int:
    """The version of Landlock that this kernel has; 0 without it."""
    try:
        return syscall("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def networks() -> int:
    """Which of ACCESS_NET_ALL this kernel can deny."""
    return ACCESS_NET_ALL if abi() >= 4 else 0


def scopes() -> int:
    """Which of SCOPE_ALL this kernel can deny."""
    return SCOPE_ALL if abi() >= 6 else 0


def restrict(handled_net: int, scoped: int) -> None:
    """Deny, from now on and for good, all of `handled_net`, and with `scoped` signals and abstract sockets of others.

    Needs no-new-privs. Raises OSError if the kernel does not know one of the bits: take them from `networks`
    and `scopes`.
    """
    if not handled_net | scoped:
        return
    attributes = _RulesetAttr(0, handled_net, scoped)
    size = 24 if scoped else 16  # an older kernel knows a shorter structure
    with Fd(syscall("landlock_create_ruleset", ctypes.byref(attributes), size, 0)) as ruleset:
        syscall("landlock_restrict_self", ruleset.fileno(), 0)
