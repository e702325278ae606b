"""Orchestrator ↔ zygote: one JSON object a datagram; descriptors ride beside it, named by `fds` in their order.

An order to start is words that each end in a zero byte, for shim/fork.c, which reads no JSON: "S1" (by a fork; "S0":
in the zygote itself), the instance's id, then a name for each descriptor. `decode` gives what stands under `start`.

JSON, because a zygote has the standard library and nothing else. What a zygote says is a tenant's word: it is
shown to people, and never decides anything but the tenant's own fate.

    load     {"do": "load", "settings": {…}, "fds": ["serve", "null", "base", "release"]}
    loaded   {"is": "loaded", "phases": {name: ms}}
    failed   {"is": "failed", "error": sentence, "detail": traceback}
    start    {"do": "start", "instance": id, "fork": bool, "fds": ["conveyor", "handle", "channel", "grant:NAME", …]}
             without a conveyor it is one ahead: forked, confined, and waiting for GO on its handle, with the conveyor
    command  {"do": "start", "instance": id, "fork": bool, "command": {"arguments": [word, …], "environment": {…}},
              "fds": ["handle", "channel", "stdin", "stdout", "stderr", "filter", "grant:NAME", …]}
    exited   {"is": "exited", "instance": id, "status": waitpid(2) status}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

MAX_DATAGRAM: Final = 128 * 1024  # bytes
MAX_FDS: Final = 64
GO: Final = b"G"
_MAX_PHASES: Final = 16
_STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # steers terminals; is no UTF-8


class Malformed(ValueError):
    """Not one of the datagrams above."""


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def encode_start(instance: str, names: Sequence[str], *, fork: bool) -> bytes:
    """The order to start `instance` with descriptors of these names."""
    return "".join(f"{word}\0" for word in ("S1" if fork else "S0", instance, *names)).encode()


def decode(data: bytes) -> dict[str, Any]:
    """Raises Malformed, whatever the bytes are."""
    if data[:1] == b"S":
        return _decode_start(data)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Malformed("not a JSON object")
    return message


def _decode_start(data: bytes) -> dict[str, Any]:
    try:
        how, instance, *names, end = data.decode().split("\0")
    except ValueError as error:  # UnicodeDecodeError, or too few words
        raise Malformed(f"no order to start: {error}") from error
    if how not in ("S0", "S1") or end:
        raise Malformed("no order to start")
    return {"do": "start", "instance": instance, "fork": how == "S1", "fds": names}


def text(message: dict[str, Any], key: str, most: int) -> str:
    """A tenant's words for people: at most `most` characters, "" where there are none."""
    value = message.get(key)
    return _STEERING.sub("?", value[:most]) if isinstance(value, str) else ""


def phases(message: dict[str, Any]) -> dict[str, float]:
    """Milliseconds by phase; what is no finite number under a short name is left out."""
    value = message.get("phases")
    if not isinstance(value, dict):
        return {}
    told = [(name, ms) for name, ms in value.items() if name.isalnum() and len(name) <= 16 and type(ms) in (int, float)]
    return {name: float(ms) for name, ms in told[:_MAX_PHASES] if abs(ms) < 1e9 and math.isfinite(ms)}
