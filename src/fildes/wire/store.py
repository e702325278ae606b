"""The frames of the fd store: what a daemon and init say to each other over the daemon's store channel.

One SOCK_SEQPACKET datagram is one frame: a letter, fixed fields (little-endian), then the one variable part;
descriptors ride beside it. Standard library only, because init speaks it. init parses nothing of a daemon's but
these frames, and never a blob.

Pages: a daemon fetches its deposits PAGE at a time, each request naming the serial after which to go on, so that
neither a queue nor the kernel's count of descriptors in flight overflows. Answers carry the nonce of their request:
what was meant for a killed forerunner is told apart by it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

MAX_KEY: Final = 128  # bytes
MAX_BLOB: Final = 1024
MAX_FDS: Final = 16  # a deposit
PAGE: Final = 32  # deposits an answer to Collect
MAX_FRAME: Final = 2048
EXITED: Final = b"W"  # how a frame Exited starts

_COLLECT = struct.Struct("<IQ")
_ITEM = struct.Struct("<IQB")
_END = struct.Struct("<IQB")
_PROCESS = struct.Struct("<IiIB")
_EXIT = struct.Struct("<ii")
_U32 = struct.Struct("<I")


class Malformed(ValueError):
    """Not a frame of this protocol; the sentence says in what way."""


class Ready(NamedTuple):
    """daemon → init: my handlers are there, I answer from now on."""


class Deposit(NamedTuple):
    """daemon → init: keep these descriptors under `key`, in place of what was there."""

    key: bytes
    blob: bytes


class Drop(NamedTuple):
    """daemon → init: close what is under `key`; no matter if there is nothing."""

    key: bytes


class Collect(NamedTuple):
    """daemon → init: the next PAGE of my deposits whose serial is above `after`."""

    nonce: int
    after: int


class ListProcesses(NamedTuple):
    """daemon → init: what runs? Answered to those only whom init's table allows it; to others with an empty list."""

    nonce: int


class Item(NamedTuple):
    """init → daemon: one deposit, its descriptors beside it."""

    nonce: int
    serial: int
    key: bytes
    blob: bytes


class End(NamedTuple):
    """init → daemon: the page is complete; if `more`, ask again with `after`."""

    nonce: int
    after: int
    more: bool


class Failed(NamedTuple):
    """init → daemon: the deposit under `key` was not taken, its descriptors were closed."""

    key: bytes
    text: str


class Exited(NamedTuple):
    """init → the daemon that watches exits: a child that is no daemon was reaped; `status` is wait(2)'s."""

    pid: int
    status: int


class Process(NamedTuple):
    """init → daemon: one daemon, its pidfd beside it unless `state` is "down"."""

    nonce: int
    pid: int  # in init's PID namespace; 0 when it is down
    restarts: int
    state: str  # of STATES
    name: str


class Closing(NamedTuple):
    """init → daemon: the node ends; finish and return. (A SIGTERM instead says: you alone are replaced.)"""


ToInit = Ready | Deposit | Drop | Collect | ListProcesses
ToDaemon = Item | End | Failed | Exited | Process | Closing

STATES: Final = ("down", "starting", "ready")


def check(key: bytes, blob: bytes, fds: int) -> None:
    """Raises ValueError, with the sentence for whoever deposits, if this can't be a deposit."""
    if not 1 <= len(key) <= MAX_KEY:
        raise ValueError(f"a deposit's key has 1 to {MAX_KEY} bytes, not {len(key)}")
    if len(blob) > MAX_BLOB:
        raise ValueError(f"a deposit's blob has at most {MAX_BLOB} bytes, not {len(blob)}; put more into a memfd")
    if fds > MAX_FDS:
        raise ValueError(f"a deposit holds at most {MAX_FDS} descriptors, not {fds}; use several keys")


def encode(frame: ToInit | ToDaemon) -> bytes:
    match frame:
        case Ready():
            return b"r"
        case Deposit(key, blob):
            return b"d" + bytes([len(key)]) + key + blob
        case Drop(key):
            return b"x" + key
        case Collect():
            return b"c" + _COLLECT.pack(*frame)
        case ListProcesses(nonce):
            return b"p" + _U32.pack(nonce)
        case Item(nonce, serial, key, blob):
            return b"I" + _ITEM.pack(nonce, serial, len(key)) + key + blob
        case End():
            return b"E" + _END.pack(*frame)
        case Failed(key, text):
            return b"F" + bytes([len(key)]) + key + text.encode()
        case Exited():
            return EXITED + _EXIT.pack(*frame)
        case Process(nonce, pid, restarts, state, name):
            return b"P" + _PROCESS.pack(nonce, pid, restarts, STATES.index(state)) + name.encode()
        case Closing():
            return b"Z"


def decode_to_init(data: bytes) -> ToInit:
    """What a daemon sent. Raises Malformed, whatever the bytes are."""
    kind, rest = data[:1], data[1:]
    try:
        if kind == b"r" and not rest:
            return Ready()
        if kind == b"d":
            deposit = Deposit(*_keyed(rest))
            check(*deposit, 0)
            return deposit
        if kind == b"x":
            check(rest, b"", 0)
            return Drop(rest)
        if kind == b"c":
            return Collect(*_COLLECT.unpack(rest))
        if kind == b"p":
            return ListProcesses(*_U32.unpack(rest))
    except (ValueError, struct.error) as error:
        raise Malformed(f"a frame {kind!r} for init: {error}") from error
    raise Malformed(f"a frame for init starts with one of 'rdxcp', not {kind!r}")


def decode_to_daemon(data: bytes) -> ToDaemon:
    """What init sent. Raises Malformed, whatever the bytes are."""
    kind, rest = data[:1], data[1:]
    try:
        if kind == b"I":
            nonce, serial, length = _ITEM.unpack_from(rest)
            return Item(nonce, serial, *_split(rest[_ITEM.size :], length))
        if kind == b"E":
            nonce, after, more = _END.unpack(rest)
            return End(nonce, after, bool(more))
        if kind == b"F":
            key, text = _keyed(rest)
            return Failed(key, text.decode())
        if kind == EXITED:
            return Exited(*_EXIT.unpack(rest))
        if kind == b"P":
            nonce, pid, restarts, state = _PROCESS.unpack_from(rest)
            return Process(nonce, pid, restarts, STATES[state], rest[_PROCESS.size :].decode())
        if kind == b"Z" and not rest:
            return Closing()
    except (ValueError, IndexError, struct.error) as error:
        raise Malformed(f"a frame {kind!r} from init: {error}") from error
    raise Malformed(f"a frame from init starts with one of 'IEFWPZ', not {kind!r}")


def _keyed(rest: bytes) -> tuple[bytes, bytes]:
    if not rest:
        raise ValueError("it ends before the key")
    return _split(rest[1:], rest[0])


def _split(rest: bytes, length: int) -> tuple[bytes, bytes]:
    if len(rest) < length:
        raise ValueError("it ends within the key")
    return rest[:length], rest[length:]
