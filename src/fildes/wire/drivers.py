"""What every driver answers, "<driver>.open", and what the inspect driver tells.

A driver of a kind is asked by the bus (on behalf of a tenant that holds the grant) or by the orchestrator (for the
grants that an instance gets before it starts). The grant was decided before; the driver checks how it is narrowed.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Open(msgspec.Struct, forbid_unknown_fields=True):
    """`<driver>.open` → Opened, with the descriptors of that kind beside it.

    kind     descriptors in the answer
    clock    [timerfd: 1 ms periodic, non-blocking; memfd, read-only: the page described in capabilities/clock]
    random   [/dev/urandom, read-only, its own description]
    secret   [sealed memfd of the value]                        (the catalogue answers)
    sqlite   [database, journal, write-ahead log, its index]     (storage answers)
    connect  [connected stream]                                 (net answers; between services the bus does)

    A grant's `to` is among the options.
    """

    kind: str
    name: str
    options: dict[str, Any]
    release: str
    service: str
    owner: str = ""


class Opened(msgspec.Struct, forbid_unknown_fields=True):
    """`kind` again, so that an answer explains itself in a trace."""

    kind: str = ""


class Inspect(msgspec.Struct, forbid_unknown_fields=True):
    """`inspect.fds` → Inspected + [sealed memfd: the tables, for `read_tables`]; at most 4096 pids."""

    pids: list[int]


class Inspected(msgspec.Struct, forbid_unknown_fields=True):
    tables: int


class FdEntry(msgspec.Struct, array_like=True):
    """A descriptor. `kind`: file, directory, pipe, socket, device, memfd, or the word in anon_inode:[…]."""

    fd: int
    target: str  # what readlink(/proc/PID/fd/N) says; bytes that are not UTF-8 escaped
    kind: str
    flags: int  # open flags, O_CLOEXEC among them (proc_pid_fdinfo(5))
    pos: int


class FdTable(msgspec.Struct, array_like=True):
    """`error` is "" or says why the table could not be read (the process ended, say)."""

    pid: int
    fds: list[FdEntry]
    error: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[FdTable])


def write_tables(tables: list[FdTable]) -> bytes:
    return _encoder.encode(tables)


def read_tables(data: bytes) -> list[FdTable]:
    """The tables in the memfd of an Inspected. Raises msgspec.DecodeError."""
    return _decoder.decode(data)
