"""A command of a release: its words, and its lease. No I/O.

What follows `fildes run NAME --`, and a line of `on_release`, is what one would type behind `python`:

    python FILE ARGS…     python -m MODULE ARGS…     python -c CODE ARGS…     python (alone: the console)

The lease is a SOCK_SEQPACKET pair between the CLI and the orchestrator. It is the command's life: when the CLI's end
closes, the command ends, whatever happens to the daemons between the two.

    CLI → orchestrator    b"S" number:u8              send it this signal
    orchestrator → CLI    b"E" status:u32 sentence    it ended: the status of waitpid(2), and how, for people
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from struct import Struct
from typing import Final, Literal, NamedTuple

MAX_DATAGRAM: Final = 4096
MAX_ARGUMENTS: Final = 32 * 1024  # bytes of all of them together
SIGNALS: Final = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGWINCH})

_NAMES: Final = ("python", "python3")
_ended = Struct("<I")


class Invocation(NamedTuple):
    """`what`: a file, a module, code, or nothing; `argv`: sys.argv as the program will find it but for its first."""

    kind: Literal["file", "module", "code", "console"]
    what: str
    argv: list[str]


class Ended(NamedTuple):
    """`status` as of waitpid(2); `text` says how it ended, "" where the status says enough."""

    status: int
    text: str


def invocation(arguments: Sequence[str]) -> Invocation:
    """What the words ask for. ValueError with a sentence for those that make no sense."""
    size = sum(len(argument.encode(errors="surrogateescape")) + 1 for argument in arguments)
    if size > MAX_ARGUMENTS:
        raise ValueError(f"the command has {size} bytes; {MAX_ARGUMENTS} can be passed: use its standard input")
    if any("\0" in argument for argument in arguments):
        raise ValueError("the command holds a zero byte, which no argument can carry")
    words = list(arguments)
    if words and words[0] in _NAMES:
        words.pop(0)
    while words and words[0] == "-u":  # what is printed comes at once anyway, or at its end
        words.pop(0)
    if not words:
        return Invocation("console", "", [])
    first, *rest = words
    if first[:2] in ("-m", "-c"):
        kind: Literal["module", "code"] = "module" if first[1] == "m" else "code"
        what = first[2:] or (rest.pop(0) if rest else "")
        if not what:
            raise ValueError(f"python {first}: {'which module' if kind == 'module' else 'which code'}?")
        return Invocation(kind, what, rest)
    if first.startswith("-"):
        raise ValueError(f"python {first}: of its options there are -m MODULE, -c CODE and -u; else name a file")
    return Invocation("file", first, rest)


def encode_signal(number: int) -> bytes:
    return b"S" + bytes((number,))


def decode_signal(data: bytes) -> int:
    """The signal that is asked for. ValueError if that is none that a terminal sends."""
    if len(data) == 2 and data[:1] == b"S" and data[1] in SIGNALS:
        return data[1]
    raise ValueError("a word on a command's lease that can't be read")


def encode_ended(status: int, text: str) -> bytes:
    return b"E" + _ended.pack(status & 0xFFFFFFFF) + text.encode(errors="replace")[: MAX_DATAGRAM - 5]


def decode_ended(data: bytes) -> Ended:
    """ValueError for anything else."""
    if data[:1] != b"E" or len(data) < 5:
        raise ValueError("a word on a command's lease that can't be read")
    return Ended(_ended.unpack_from(data, 1)[0], data[5:].decode(errors="replace"))
