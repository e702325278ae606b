"""The trap reads the same format as the Python reader, and refuses what that one refuses before it serves a byte."""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fildes.pack.collect import Source
from fildes.pack.format import ENTRY, HEADER, PackError
from fildes.pack.reader import Pack
from fildes.pack.writer import write
from fildes.runtime import trap

library = ctypes.CDLL(os.fspath(trap.LIBRARY))


def small() -> bytearray:
    output = io.BytesIO()
    write(output, [Source("/app/a.txt", b"hello"), Source("/app/b", None), Source("/app/c.txt", b"hello")])
    return bytearray(output.getvalue())


def verdicts(data: bytes) -> tuple[int, bool]:
    """What the trap says (0: it takes it, or the rule), and whether the Python reader takes it."""
    fd = os.memfd_create("pack", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        try:
            Pack(fd).close()
            readable = True
        except PackError:
            readable = False
        return library.fildes_trap_check_pack(fd), readable
    finally:
        os.close(fd)


def test_a_good_pack_is_taken() -> None:
    assert verdicts(bytes(small())) == (0, True)


@settings(deadline=None, max_examples=600)
@given(st.data())
def test_the_trap_takes_nothing_that_the_reader_refuses_but_for_listings(data: st.DataObject) -> None:
    """What a listing says is checked for its form only in C: its names are looked up in the index again."""
    changed = small()
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    rule, readable = verdicts(bytes(changed))
    if readable:
        assert rule == 0
    elif rule == 0:
        with pytest.raises(PackError, match="directory"):
            fd = os.memfd_create("pack", os.MFD_CLOEXEC)
            try:
                os.write(fd, bytes(changed))
                Pack(fd).close()
            finally:
                os.close(fd)


def field(number: int, which: int, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        at = HEADER.size + number * ENTRY.size
        fields = list(ENTRY.unpack_from(data, at))
        fields[which] = value
        ENTRY.pack_into(data, at, *fields)

    return change


def header(which: int, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        fields = list(HEADER.unpack_from(data))
        fields[which] = value
        HEADER.pack_into(data, 0, *fields)

    return change


def renamed(before: bytes, after: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        at = data.index(before)
        data[at : at + len(after)] = after

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (header(1, 2), 1),
        (header(2, 0), 2),
        (header(2, 2**32 - 1), 2),
        (header(7, 2**63), 2),
        (header(2, 100_000), 3),
        (header(4, 2**64 - 64), 3),
        (header(5, 2**64 - 1), 3),
        (header(6, 2**63), 3),
        (field(1, 0, 2**32 - 1), 4),
        (field(2, 1, 2**32 - 1), 4),
        (renamed(b"/app/a.txt", b"/app/../xx"), 5),
        (renamed(b"/app/a.txt", b"/app/a\0txt"), 5),
        (field(2, 1, 0), 5),
        (renamed(b"/app/a.txt", b"/app/z.txt"), 6),
        (field(0, 2, 0o100644), 6),
        (field(2, 2, 0o120777), 7),
        (field(2, 2, 0o104755), 7),
        (field(2, 4, 8), 8),
        (field(2, 4, 2**64 - 16), 8),
        (field(2, 5, 2**64 - 1), 8),
        (field(2, 6, -1), 8),
        (field(2, 3, 3), 9),
        (field(2, 3, 2**32 - 1), 9),
        (field(0, 3, 1), 9),
        (field(1, 5, 30), 10),
        (field(1, 5, 8), 10),
    ],
)
def test_a_hostile_pack_is_refused_by_its_rule(change: Callable[[bytearray], None], rule: int) -> None:
    data = small()
    change(data)
    assert verdicts(bytes(data)) == (rule, False)


def test_what_is_no_pack_is_refused() -> None:
    for data in (b"", b"x" * 63, b"x" * 64, b"FILDPAK1" + bytes(56)):
        rule, readable = verdicts(data)
        assert rule in (1, 2) and not readable
    assert library.fildes_trap_check_pack(-1) == -9
    read, write_end = os.pipe()
    assert library.fildes_trap_check_pack(read) != 0
    os.close(read)
    os.close(write_end)
