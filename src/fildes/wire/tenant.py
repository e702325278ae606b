"""A tenant's side of the bus protocol, in the standard library only: a small msgpack codec and the envelope.

It writes byte for byte what msgspec writes for `wire.message` (held by a test), so that a program need not carry a
library to ask for what it was granted. Of msgpack (github.com/msgpack/msgpack, spec.md) it knows nil, bool,
int, float, str, bin, array, and map with str keys; not the extension types.

A tenant's verbs have no dot, the bus itself answers them:

    open     {"name": grant} → {"kind": str, "name": str}, with the descriptors of that kind beside it
    inspect  {}              → {"service", "release", "instance": str, "grants": [{"name", "kind", "to"}]}

Anything else is answered by a failure with the code "unknown-verb".
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

VERSION: Final = 1
MAX_REQUEST: Final = 4096  # bytes of one datagram of a tenant
MAX_ANSWER: Final = 128 * 1024
MAX_FDS: Final = 16
WINDOW: Final = 8  # requests without an answer at a time; with more, those that open something may be refused ("busy")
MAX_ID: Final = (1 << 40) - 1
_DEPTH: Final = 32  # nesting; nothing that the bus says is deeper than six

_DOUBLE = struct.Struct(">d")


class Malformed(ValueError):
    """These bytes are not a message."""


# — values to bytes —


def pack(value: Any) -> bytes:
    """msgpack of `value`, each thing in its shortest form. Raises TypeError, ValueError or OverflowError."""
    out = bytearray()
    _write(out, value, 0)
    return bytes(out)


def _write(out: bytearray, value: Any, depth: int) -> None:
    if depth > _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH}")
    if value is None:
        out.append(0xC0)
    elif value is True or value is False:
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _write_int(out, value)
    elif isinstance(value, float):
        out.append(0xCB)
        out += _DOUBLE.pack(value)
    elif isinstance(value, str):
        data = value.encode()
        _write_size(out, len(data), 0xA0, 31, (0xD9, 0xDA, 0xDB))
        out += data
    elif isinstance(value, bytes | bytearray | memoryview):
        _write_size(out, len(value), 0, -1, (0xC4, 0xC5, 0xC6))
        out += value
    elif isinstance(value, list | tuple):
        _write_size(out, len(value), 0x90, 15, (0, 0xDC, 0xDD))
        for item in value:
            _write(out, item, depth + 1)
    elif isinstance(value, dict):
        _write_size(out, len(value), 0x80, 15, (0, 0xDE, 0xDF))
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key must be a str, not {type(key).__name__}")
            _write(out, key, depth + 1)
            _write(out, item, depth + 1)
    else:
        raise TypeError(f"a {type(value).__name__} does not go over the wire")


def _write_int(out: bytearray, value: int) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
    elif value >= 0:
        for first, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
            if value < 1 << 8 * size:
                out.append(first)
                out += value.to_bytes(size, "big")
                return
        raise OverflowError("an integer of more than 64 bits does not go over the wire")
    else:
        for first, size in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
            if value >= -(1 << 8 * size - 1):
                out.append(first)
                out += value.to_bytes(size, "big", signed=True)
                return
        raise OverflowError("an integer of more than 64 bits does not go over the wire")


def _write_size(out: bytearray, size: int, short: int, short_most: int, firsts: tuple[int, int, int]) -> None:
    if size <= short_most:
        out.append(short | size)
    elif firsts[0] and size < 1 << 8:
        out += bytes((firsts[0], size))
    elif size < 1 << 16:
        out.append(firsts[1])
        out += size.to_bytes(2, "big")
    else:
        out.append(firsts[2])
        out += size.to_bytes(4, "big")  # OverflowError from 4 GiB on


# — bytes to values —

_NUMBERS: Final = {
    0xCA: struct.Struct(">f"),
    0xCB: _DOUBLE,
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_SIZES: Final = {  # first byte → (what follows, bytes of its size)
    0xC4: (bytes, 1), 0xC5: (bytes, 2), 0xC6: (bytes, 4),
    0xD9: (str, 1), 0xDA: (str, 2), 0xDB: (str, 4),
    0xDC: (list, 2), 0xDD: (list, 4),
    0xDE: (dict, 2), 0xDF: (dict, 4),
}  # fmt: skip
_CONSTANTS: Final = {0xC0: None, 0xC2: False, 0xC3: True}


def unpack(data: bytes) -> Any:
    """The one value in `data`. Raises Malformed, whatever the bytes are."""
    value, at = _read(data, 0, 0)
    if at != len(data):
        raise Malformed(f"{len(data) - at} bytes too many")
    return value


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEPTH:
        raise Malformed(f"nested deeper than {_DEPTH}")
    if at >= len(data):
        raise Malformed("it ends too early")
    first = data[at]
    at += 1
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return first - 256, at
    if first < 0x90:
        return _read_items(data, at, dict, first & 0x0F, depth)
    if first < 0xA0:
        return _read_items(data, at, list, first & 0x0F, depth)
    if first < 0xC0:
        return _read_items(data, at, str, first & 0x1F, depth)
    if first in _CONSTANTS:
        return _CONSTANTS[first], at
    if first in _NUMBERS:
        number = _NUMBERS[first]
        if at + number.size > len(data):
            raise Malformed("it ends too early")
        return number.unpack_from(data, at)[0], at + number.size
    if first in _SIZES:
        kind, width = _SIZES[first]
        if at + width > len(data):
            raise Malformed("it ends too early")
        return _read_items(data, at + width, kind, int.from_bytes(data[at : at + width], "big"), depth)
    raise Malformed(f"the byte {first:#04x} starts nothing that is understood here")


def _read_items(data: bytes, at: int, kind: type, size: int, depth: int) -> tuple[Any, int]:
    if at + size > len(data):  # every item takes a byte at least: a claimed size costs no memory
        raise Malformed("it ends too early")
    if kind is bytes:
        return data[at : at + size], at + size
    if kind is str:
        try:
            return data[at : at + size].decode(), at + size
        except UnicodeDecodeError as error:
            raise Malformed(f"text that is not UTF-8: {error.reason}") from None
    if kind is list:
        items = []
        for _ in range(size):
            item, at = _read(data, at, depth + 1)
            items.append(item)
        return items, at
    pairs = {}
    for _ in range(size):
        key, at = _read(data, at, depth + 1)
        if not isinstance(key, str):
            raise Malformed(f"a key must be a str, not {type(key).__name__}")
        pairs[key], at = _read(data, at, depth + 1)
    return pairs, at


# — the envelope, as wire.message lays it out —


class Answer(NamedTuple):
    """What came from the bus. `kind` is hello, reply, failure or event; the fields of the others are empty."""

    kind: str
    id: int = 0
    body: Any = None
    code: str = ""
    text: str = ""
    grant: str | None = None
    epoch: int = 0


def request(number: int, verb: str, body: dict[str, Any]) -> bytes:
    """One datagram. Raises ValueError if it is larger than a tenant may send."""
    data = pack({"type": "request", "id": number, "verb": verb, "body": body, "sender": ""})
    if len(data) > MAX_REQUEST:
        raise ValueError(f"a request of {len(data)} bytes; at most {MAX_REQUEST} are taken")
    return data


def answer(data: bytes) -> Answer:
    """Raises Malformed, whatever the bytes are."""
    message = unpack(data)
    if not isinstance(message, dict):
        raise Malformed("not a map")
    kind = message.get("type")
    if kind == "hello":
        return Answer("hello", epoch=_field(message, "epoch", int))
    if kind == "reply":
        return Answer("reply", _field(message, "id", int), message.get("body"))
    if kind == "failure":
        grant = message.get("grant")
        if grant is not None and not isinstance(grant, str):
            raise Malformed("the field 'grant' is not a str")
        code, text = _field(message, "code", str), _field(message, "text", str)
        return Answer("failure", _field(message, "id", int), code=code, text=text, grant=grant)
    if kind == "event":
        return Answer("event", body=message.get("body"), text=_field(message, "verb", str))
    raise Malformed(f"a message of the unknown type {kind!r}")


def _field(message: dict[str, Any], name: str, kind: type) -> Any:
    value = message.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Malformed(f"the field {name!r} is not a {kind.__name__}")
    return value
