"""The datagrams of a conveyor, encoded and decoded, without I/O. Little-endian; fds ride along in the order given.

A conveyor is a SOCK_SEQPACKET pair of one release. The door and the bus send connections in, instances take them out
of the other end, and answer over it:

    door -> instance   b"C" count:u8, then for each of the count fds beside it:
                            serial:u32 flags:u8 peer_len:u8 head_len:u32 peer head
    bus -> instance    b"I" name_len:u8 name          an introduced stream, + 1 fd
    instance -> door   b"T" serial:u32 …              taken: the credit is returned
                       b"D" serial:u32 …              the first byte is being written: drop your copy
                       b"K" serial:u32 …              as D, and it is kept for further requests …
                       b"E" serial:u32 …              … which has ended now
                       b"B" serial:u32 head_len:u32 head     not mine: route it again, + 1 fd

Connections come with O_NONBLOCK set (it belongs to the description, which door and instance share); introduced streams
are set so by the instance. `peer` is "address port" in ASCII; `head` is all that was read so far: a complete head and
whatever followed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct, unpack
from struct import error as _StructError
from typing import NamedTuple

MAX_CONNECTIONS = 24  # fds a message; the kernel's own limit is SCM_MAX_FD = 253
MAX_DATAGRAM = 128 * 1024  # what a receiver must have room for: one head of 64 KiB with as much behind it

TLS = 1  # flag: the client speaks https
ONCE = 2  # flag: hand the connection back after one response (its host is shared with others by path)
FORWARDED = 4  # flag: the door wrote what X-Forwarded-* and Forwarded say; without it they are the client's own claims

_entry = Struct("<IBBI")
_back = Struct("<II")


class Connection(NamedTuple):
    """A client's connection on its way to an instance; its fd rides beside the datagram."""

    serial: int  # the door's number for it, u32
    flags: int  # TLS | ONCE | FORWARDED
    peer: bytes  # b"192.0.2.1 4711"
    head: bytes


class Introduction(NamedTuple):
    """A stream that the bus introduced; `caller` is the service at its other end."""

    caller: str


class Taken(NamedTuple):
    serials: tuple[int, ...]


class Done(NamedTuple):
    serials: tuple[int, ...]


class Kept(NamedTuple):
    """Said in place of Done of connections that stay open, so that the door can count them; each is Ended later.
    Who never says it has its kept connections not counted."""

    serials: tuple[int, ...]


class Ended(NamedTuple):
    serials: tuple[int, ...]


class Back(NamedTuple):
    serial: int
    head: bytes


def encode_connections(connections: Sequence[tuple[int, int, bytes, bytes]]) -> bytes:
    """One "C" datagram of Connections, or of tuples like them. ValueError for none, for more than MAX_CONNECTIONS, or
    beyond MAX_DATAGRAM bytes."""
    if not 1 <= len(connections) <= MAX_CONNECTIONS:
        raise ValueError(f"a conveyor message carries 1 to {MAX_CONNECTIONS} connections, not {len(connections)}")
    parts = [b"C", bytes((len(connections),))]
    pack = _entry.pack
    for serial, flags, peer, head in connections:
        parts += (pack(serial, flags, len(peer), len(head)), peer, head)
    data = b"".join(parts)
    if len(data) > MAX_DATAGRAM:
        raise ValueError(f"a conveyor message of {len(data)} bytes: at most {MAX_DATAGRAM} fit")
    return data


def encoded_size(connection: Connection) -> int:
    """Bytes that a connection adds to a "C" datagram (which itself takes 2)."""
    return _entry.size + len(connection.peer) + len(connection.head)


def encode_introduction(caller: str) -> bytes:
    """One "I" datagram; the name is at most 255 bytes of UTF-8 (ValueError)."""
    name = caller.encode()
    if len(name) > 255:
        raise ValueError("a caller's name is at most 255 bytes")
    return b"I" + bytes((len(name),)) + name


def encode_taken(serials: Iterable[int]) -> bytes:
    return encode_serials(b"T", serials)


def encode_done(serials: Iterable[int]) -> bytes:
    return encode_serials(b"D", serials)


def encode_kept(serials: Iterable[int]) -> bytes:
    return encode_serials(b"K", serials)


def encode_ended(serials: Iterable[int]) -> bytes:
    return encode_serials(b"E", serials)


def encode_serials(word: bytes, serials: Iterable[int]) -> bytes:
    """`word` is b"T", b"D", b"K" or b"E"."""
    return word + b"".join([serial.to_bytes(4, "little") for serial in serials])


def encode_back(serial: int, head: bytes) -> bytes:
    return b"B" + _back.pack(serial, len(head)) + head


def decode_inward(data: bytes | memoryview, fds: int) -> list[Connection] | Introduction:
    """What an instance received, with the number of fds beside it. ValueError when the two don't agree."""
    view = memoryview(data)
    try:
        if view[0] == 67:  # C
            return _connections(view, fds)
        if view[0] == 73 and fds == 1 and len(view) == 2 + view[1]:  # I
            return Introduction(str(view[2:], "utf-8"))
    except (IndexError, _StructError) as error:
        raise ValueError("a conveyor message that ends too early") from error
    raise ValueError("a conveyor message that can't be read")


def _connections(view: memoryview, fds: int) -> list[Connection]:
    if view[1] != fds or not fds:
        raise ValueError(f"a conveyor message of {view[1]} connections with {fds} fds")
    connections = []
    at, size = 2, len(view)
    for _ in range(fds):
        serial, flags, peer_size, head_size = _entry.unpack_from(view, at)
        head_at = at + _entry.size + peer_size
        at = head_at + head_size
        if at > size:
            raise ValueError("a conveyor message that ends too early")
        connections.append(
            Connection(serial, flags, bytes(view[head_at - peer_size : head_at]), bytes(view[head_at:at]))
        )
    if at != size:
        raise ValueError("a conveyor message with bytes left over")
    return connections


_lists: dict[bytes, type[Taken | Done | Kept | Ended]] = {b"T": Taken, b"D": Done, b"K": Kept, b"E": Ended}


def decode_outward(data: bytes, fds: int) -> Taken | Done | Kept | Ended | Back:
    """What the door received from an instance, with the number of fds beside it. ValueError when it is none of ours.

    It comes from a tenant: nothing in it is to be believed. `fds` must be 1 for Back and 0 for the others.
    """
    kind = data[:1]
    if kind in _lists and not fds and len(data) > 1 and len(data) % 4 == 1:
        return _lists[kind](unpack(f"<{len(data) // 4}I", data[1:]))
    if kind == b"B" and fds == 1 and len(data) >= 9:
        serial, size = _back.unpack_from(data, 1)
        if len(data) == 9 + size:
            return Back(serial, data[9:])
    raise ValueError("a message from an instance that can't be read")
