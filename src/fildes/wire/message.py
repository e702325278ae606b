"""The envelope of every datagram on a bus channel: msgpack of one tagged struct; descriptors ride beside it.

A request is answered by exactly one Reply or Failure with its id. It is idempotent per (channel, id): after a
Hello with a new epoch, what is unanswered is sent again under the same id. `sender` is written by the bus
and by nobody else: what a client puts there is overwritten.

Ids: a client's are 1 … MAX_ID. The bus forwards a request under `channel number << ID_BITS | id`, and channel
numbers outlive a restart of the bus, so that whoever answers can tell a request sent again from a new one.
"""

from __future__ import annotations

from typing import Final

import msgspec

VERSION: Final = 1
MAX_DATAGRAM: Final = 128 * 1024  # bytes; larger things travel as a sealed memfd
MAX_FDS: Final = 16
ID_BITS: Final = 40
MAX_ID: Final = (1 << ID_BITS) - 1


class Hello(msgspec.Struct, tag="hello", forbid_unknown_fields=True):
    """The bus's first message on a channel, and again after each restart of it."""

    version: int
    epoch: int


class Request(msgspec.Struct, tag="request", forbid_unknown_fields=True):
    id: int
    verb: str  # "<who answers>.<what>"; a tenant's has no dot: the bus itself answers
    body: msgspec.Raw
    sender: str = ""


class Reply(msgspec.Struct, tag="reply", forbid_unknown_fields=True):
    id: int
    body: msgspec.Raw


class Failure(msgspec.Struct, tag="failure", forbid_unknown_fields=True):
    """`text` is a sentence to act on; `grant` the lines of a manifest that would have allowed it."""

    id: int
    code: str
    text: str
    grant: str | None = None


class Event(msgspec.Struct, tag="event", forbid_unknown_fields=True):
    """One-way: no answer comes, and none is owed."""

    verb: str
    body: msgspec.Raw
    sender: str = ""


Message = Hello | Request | Reply | Failure | Event

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Malformed(ValueError):
    """The peer sent what is not a message; the sentence says in what way."""


def encode(message: Message) -> bytes:
    """One datagram. Raises ValueError if it is larger than MAX_DATAGRAM."""
    data = _encoder.encode(message)
    if len(data) > MAX_DATAGRAM:
        raise ValueError(f"a message of {len(data)} bytes; at most {MAX_DATAGRAM} fit: send a sealed memfd")
    return data


def decode(data: bytes) -> Message:
    """Raises Malformed, whatever the bytes are."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"not a message of protocol version {VERSION}: {error}") from error


def pack(body: msgspec.Struct | None) -> msgspec.Raw:
    """A body for an envelope; None is the empty one."""
    return msgspec.Raw(_encoder.encode(body if body is not None else {}))
