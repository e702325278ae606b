"""From what a program wrote to the lines of its log. Pure.

    2026-01-31T09:41:07.123Z 4f2a91c0d3e1 what the program wrote
    2026-01-31T09:41:08.004Z fildes instance 3 ended: killed by signal 9

Stamp (UTC), who wrote it (a release, or the system), text. Bytes that would steer a terminal become question marks:
an operator reads a tenant's log without being written to by it. What is not UTF-8 stays as it is.
"""

from __future__ import annotations

import re
import time
from typing import Final

LONGEST: Final = 8192  # bytes of a line; a longer one is broken into several
SYSTEM: Final = b"fildes"

_C1: Final = re.compile(rb"\xc2[\x80-\x9f]")  # U+0080…U+009F: with these, too, some terminals are steered
_HARMLESS: Final = bytes(b if (b >= 32 and b != 127) or b in b"\n\t" else ord("?") for b in range(256))


def stamp(now: float, who: bytes) -> bytes:
    """What a line begins with; `now` in seconds since 1970."""
    milliseconds = int(now * 1000)
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return b"%s.%03dZ %s " % (date.encode(), milliseconds % 1000, who)


def complete(data: bytes, *, ended: bool = False) -> int:
    """How much of `data` can be written now: whole lines; a piece when no more comes, or it is too long."""
    cut = data.rfind(b"\n") + 1
    if not cut and (ended or len(data) >= LONGEST):
        return min(len(data), LONGEST)
    return cut


def stamped(data: bytes, prefix: bytes) -> bytes:
    """`data` with `prefix` before each line and a line end after the last. Empty for empty `data`."""
    if not data:
        return b""
    text = data.replace(b"\r\n", b"\n").translate(_HARMLESS).removesuffix(b"\n")
    if b"\xc2" in text:
        text = _C1.sub(b"?", text)
    lines = text.split(b"\n")
    if len(max(lines, key=len)) > LONGEST:
        lines = [line[at : at + LONGEST] for line in lines for at in range(0, len(line) or 1, LONGEST)]
    return prefix + (b"\n" + prefix).join(lines) + b"\n"
