"""Orchestrator ↔ zygote: one JSON object a datagram; descriptors ride beside it, named by `fds` in their order.

JSON, because a zygote has the standard library and nothing else. What a zygote says is a tenant's word: it is
shown to people, and never decides anything but the tenant's own fate.

    load     {"do": "load", "settings": {…}, "fds": ["serve", "null", "base", "release"]}
    loaded   {"is": "loaded", "phases": {name: ms}}
    failed   {"is": "failed", "error": sentence, "detail": traceback}
    start    {"do": "start", "instance": id, "fork": bool, "fds": ["conveyor", "handle", "channel", "grant:NAME", …]}
    exited   {"is": "exited", "instance": id, "status": waitpid(2) status}
"""

from __future__ import annotations

import json
from typing import Any, Final

MAX_DATAGRAM: Final = 128 * 1024  # bytes
MAX_FDS: Final = 64


class Malformed(ValueError):
    """Not one of the datagrams above."""


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode(data: bytes) -> dict[str, Any]:
    """Raises Malformed, whatever the bytes are."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Malformed("not a JSON object")
    return message
