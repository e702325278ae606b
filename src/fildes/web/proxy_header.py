"""The header of the PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt), read strictly, without I/O.

It is asked for where a proxy was declared to send it, and nowhere else: who may leave it out could invent one.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

from fildes.web.proxies import plain_address
from fildes.wire.http import INCOMPLETE, Bad, Incomplete

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V1: Final = b"PROXY "
_V1_MOST: Final = 107  # bytes, with CR LF
_V2_MOST: Final = 2048  # bytes of addresses and TLVs: those of a client's certificate may be long
_SIZES: Final = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}  # TCP over IPv4, TCP over IPv6
_TLV_SSL: Final = 0x20
_CLIENT_SSL: Final = 0x01

_WRONG: Final = "The PROXY header of this connection can't be read: "


class Introduced(NamedTuple):
    """`length` bytes were the header. `peer` is the client ("192.0.2.1 4711"), b"" when the proxy speaks for itself."""

    length: int
    peer: bytes
    secure: bool


def parse(data: bytes) -> Introduced | Bad | Incomplete:
    """Read the header at the beginning of `data`. Never raises."""
    try:
        if data[:12] == SIGNATURE[: len(data)]:
            return _second(data) if len(data) >= 16 else INCOMPLETE
        if data[:6] == _V1[: len(data)]:
            return _first(data)
    except ValueError as error:
        return Bad(400, f"{_WRONG}{error}.")
    return Bad(
        400, "This proxy was declared to send a PROXY header (up --proxy ADDRESS=proxy-protocol), and sent none."
    )


def looks_like_one(data: bytes) -> bool:
    """For the error page of somebody who sends one without being declared."""
    return data.startswith((_V1, SIGNATURE))


def _first(data: bytes) -> Introduced | Incomplete:
    end = data.find(b"\r\n", 0, _V1_MOST)
    if end < 0:
        if len(data) >= _V1_MOST or b"\n" in data:
            raise ValueError("a line of version 1 ends in CR LF after at most 107 bytes")
        return INCOMPLETE
    words = data[:end].split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return Introduced(end + 2, b"", False)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ValueError("version 1 is: PROXY TCP4 or TCP6, two addresses, two ports")
    source, destination = (_address(word, words[1]) for word in words[2:4])
    ports = [int(word) for word in words[4:] if word.isdigit() and len(word) <= 5]
    if len(ports) != 2 or max(ports) > 65535 or not destination:
        raise ValueError("a port is a number up to 65535")
    return Introduced(end + 2, b"%b %d" % (source, ports[0]), False)


def _address(word: bytes, family: bytes) -> bytes:
    plain = plain_address(word)
    if plain is None or word[:1] == b"[" or (b":" in word) != (family == b"TCP6"):
        raise ValueError(f"an address is none of {family.decode()}")
    return plain.encode()


def _second(data: bytes) -> Introduced | Incomplete:
    command, family, size = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (0x20, 0x21):
        raise ValueError("its version is not 2, or its command neither LOCAL nor PROXY")
    if size > _V2_MOST:
        raise ValueError(f"it is longer than {_V2_MOST} bytes")
    if len(data) < 16 + size:
        return INCOMPLETE
    if command == 0x20 or family == 0:  # LOCAL: the proxy's own question, whether we are well
        return Introduced(16 + size, b"", False)
    if family not in _SIZES:
        raise ValueError("it speaks of something else than TCP")
    kind, width = _SIZES[family]
    block = data[16 : 16 + size]
    if len(block) < 2 * width + 4:
        raise ValueError("it is too short for two addresses")
    source = plain_address(socket.inet_ntop(kind, block[:width]).encode())
    port = int.from_bytes(block[2 * width : 2 * width + 2], "big")
    return Introduced(16 + size, f"{source} {port}".encode(), _secure(block[2 * width + 4 :]))


def _secure(rest: bytes) -> bool:
    """Whether the client's own connection to the proxy was TLS, by the TLV that says so."""
    secure = False
    while rest:
        if len(rest) < 3 or len(rest) < 3 + int.from_bytes(rest[1:3], "big"):
            raise ValueError("a TLV is cut off")
        size = int.from_bytes(rest[1:3], "big")
        if rest[0] == _TLV_SSL and size >= 5:
            secure = bool(rest[3] & _CLIENT_SSL)
        rest = rest[3 + size :]
    return secure
