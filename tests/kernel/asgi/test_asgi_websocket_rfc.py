"""RFC 6455 case by case, as the Autobahn suite orders them: by the `websockets` library where it can, else by frames.

`Frame` and the masks are the library's; only what it would refuse to send is put together by hand.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import ClientConnection, connect

SHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@pytest.fixture(autouse=True)
def _once(loop: str) -> None:
    if loop != "uvloop":
        pytest.skip("frames are read without a loop's help: once is enough")


def dial(stage: Any, **more: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{stage.door.port}/chat", close_timeout=5, max_size=None, **more)


def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, size: int | None = None) -> bytes:
    """Masked; `size` is what the head says, by default the truth in its shortest form."""
    said = len(payload) if size is None else size
    first = bytes([opcode | (0x80 if fin else 0) | rsv << 4])
    if said < 126:
        head = first + bytes([0x80 | said])
    elif said < 65536:
        head = first + b"\xfe" + struct.pack(">H", said)
    else:
        head = first + b"\xff" + struct.pack(">Q", said)
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


@contextlib.contextmanager
def by_hand(stage: Any) -> Any:
    with stage.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(SHAKE)
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += sock.recv(1)
        yield sock


def cut(data: bytes) -> list[tuple[int, bytes]]:
    """The whole frames in it: (opcode, payload). Servers do not mask."""
    frames = []
    while len(data) >= 2:
        size, at = data[1] & 0x7F, 2
        assert not data[1] & 0x80
        assert not data[0] & 0x70
        if size == 126:
            size, at = struct.unpack(">H", data[2:4])[0], 4
        elif size == 127:
            size, at = struct.unpack(">Q", data[2:10])[0], 10
        if len(data) < at + size:
            break
        frames.append((data[0] & 0x0F, data[at : at + size]))
        data = data[at + size :]
    return frames


def received(sock: socket.socket) -> list[tuple[int, bytes]]:
    """Every frame until the server closes."""
    data = b""
    while more := sock.recv(65536):
        data += more
    return cut(data)


def talk(stage: Any, data: bytes, step: int = 0, echoes: int = 0) -> list[tuple[int, bytes]]:
    """What comes back for `data`, sent whole or `step` bytes at a time; a Close follows when `echoes` frames came."""
    with by_hand(stage) as sock:
        back = b""
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), step or len(data)):
                sock.sendall(data[at : at + (step or len(data))])
            while len(cut(back)) < echoes:
                more = sock.recv(65536)
                assert more, back
                back += more
            sock.sendall(frame(CLOSE, b"\x03\xe8"))
        return cut(back) + received(sock)


BYE = (CLOSE, b"\x03\xe8")


# 1, 9: sizes on both sides of each form of a length


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20])
def test_sizes(stage: Any, size: int) -> None:
    with dial(stage) as ws:
        for message in ("*" * size, b"\xfe" * size):
            ws.send(message)
            assert ws.recv(10) == message


# 2: pings and pongs


@pytest.mark.parametrize("payload", [b"", b"Hello", bytes(range(125)), b"\x00\xff\xfe\xfd"])
@pytest.mark.parametrize("step", [0, 1])
def test_pings_are_answered_with_what_they_bring(stage: Any, payload: bytes, step: int) -> None:
    assert talk(stage, frame(PING, payload), step) == [(PONG, payload), BYE]


def test_many_pings_and_pongs_nobody_asked_for(stage: Any) -> None:
    pings = [b"%d" % n for n in range(10)]
    data = b"".join(frame(PONG, b"?") + frame(PING, ping) for ping in pings)
    assert talk(stage, data) == [*((PONG, ping) for ping in pings), BYE]
    with dial(stage) as ws:
        assert all(ws.ping(ping).wait(10) for ping in pings)


def fails(stage: Any, data: bytes, code: int, step: int = 0) -> list[tuple[int, bytes]]:
    """The frames before the Close, which must have `code`."""
    *before, (opcode, payload) = talk(stage, data, step)
    assert opcode == CLOSE
    assert int.from_bytes(payload[:2], "big") == code, payload
    return before


# 2.5, 3, 4: what is no frame


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    "data",
    [
        frame(PING, b"", size=126) + bytes(126),
        *(frame(TEXT, b"x", rsv=rsv) for rsv in range(1, 8)),
        frame(PING, b"x", rsv=4),
        frame(CLOSE, b"\x03\xe8", rsv=1),
        *(frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        frame(CLOSE, bytes([3, 232]) + b"x" * 124),
        # 5.3: control frames are not fragmented; 5.7 and on: a message begins and goes on as it should
        frame(PING, b"x", fin=False),
        frame(PONG, b"x", fin=False),
        frame(CLOSE, b"", fin=False),
        frame(CONT, b"x"),
        frame(CONT, b"x", fin=False),
        frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
        frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"),
        frame(TEXT, b"x", fin=False) + frame(CONT, b"y", rsv=2),
        # 7.3: a Close of one byte
        frame(CLOSE, b"\x03"),
    ],
)
def test_protocol_errors(stage: Any, data: bytes, step: int) -> None:
    assert not fails(stage, data, 1002, step)


def test_what_came_before_a_protocol_error_was_received(stage: Any) -> None:
    with by_hand(stage) as sock:
        sock.sendall(frame(TEXT, b"first"))
        assert sock.recv(7) == b"\x81\x05first"
        sock.sendall(frame(3))
        assert received(sock)[-1][1][:2] == b"\x03\xea"


def test_an_unmasked_frame(stage: Any) -> None:
    assert not fails(stage, b"\x81\x01x", 1002)


def test_a_length_that_is_longer_than_it_need_be(stage: Any) -> None:
    """5.2: the minimal number of bytes must be used."""
    assert not fails(stage, b"\x81\xfe\x00\x05" + bytes(9), 1002)
    assert not fails(stage, b"\x81\xff" + struct.pack(">Q", 5) + bytes(9), 1002)
    assert not fails(stage, b"\x81\xff" + struct.pack(">Q", 1 << 63) + bytes(9), 1002)


# 5: fragments, with control frames between them


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments(stage: Any, opcode: int, step: int) -> None:
    data = frame(opcode, b"one ", fin=False) + frame(PING, b"1") + frame(CONT, b"", fin=False)
    data += frame(CONT, b"two ", fin=False) + frame(PING, b"2") + frame(PONG, b"") + frame(CONT, b"three")
    data += frame(opcode, b"four")
    answers = talk(stage, data, step, 4)
    assert [one for one in answers if one[0] != PONG] == [(opcode, b"one two three"), (opcode, b"four"), BYE]
    assert [one for one in answers if one[0] == PONG] == [(PONG, b"1"), (PONG, b"2")]


def test_ten_thousand_empty_fragments(stage: Any) -> None:
    data = frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 10000 + frame(CONT, b"x")
    assert talk(stage, data, echoes=1) == [(TEXT, b"x"), BYE]


def test_a_message_in_fragments_of_one_byte(stage: Any) -> None:
    text = "ä€𝄞" * 300
    raw = text.encode()
    frames = [frame(CONT, raw[n : n + 1], fin=False) for n in range(1, len(raw))]
    data = frame(TEXT, raw[:1], fin=False) + b"".join(frames) + frame(CONT)
    assert talk(stage, data, echoes=1) == [(TEXT, raw), BYE]


# 6: UTF-8, valid and not, cut at each byte

VALID = ["", "κόσμε", "\u0000", "\u0080", "\u0800", "\U00010000", "\u007f", "\u07ff", "\uffff", "\U0010ffff",
         "\ud7ff", "\ue000", "\ufffd", "\ufffe"]  # fmt: skip
INVALID = [b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf",
           b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\x80",
           b"\xf4\x90\x80\x80", b"\xff", b"\xfe", b"\xc1\xbf", b"abc\xc3(", b"\xce\xba\xe1\xbd",
           b"\xf0\x9d\x84"]  # fmt: skip


@pytest.mark.parametrize("text", VALID)
def test_text(stage: Any, text: str) -> None:
    raw = text.encode()
    for at in range(len(raw) + 1):
        data = frame(TEXT, raw[:at], fin=False) + frame(CONT, raw[at:]) + frame(TEXT, raw)
        assert talk(stage, data, echoes=2) == [(TEXT, raw), (TEXT, raw), BYE]


@pytest.mark.parametrize("raw", INVALID)
def test_text_that_is_none(stage: Any, raw: bytes) -> None:
    assert not fails(stage, frame(TEXT, raw), 1007)
    assert not fails(stage, frame(TEXT, raw), 1007, step=1)
    for at in range(len(raw) + 1):
        assert not fails(stage, frame(TEXT, raw[:at], fin=False) + frame(CONT, raw[at:]), 1007)


def test_text_that_is_none_fails_before_its_end(stage: Any) -> None:
    with by_hand(stage) as sock:
        sock.sendall(frame(TEXT, b"\xce\xba\xf4\x90", fin=False))
        assert received(sock)[-1][1][:2] == b"\x03\xef"


def test_binary_may_be_anything(stage: Any) -> None:
    for raw in INVALID:
        assert talk(stage, frame(BINARY, raw), echoes=1) == [(BINARY, raw), BYE]


# 7: closing


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_codes_of_the_client(stage: Any, code: int) -> None:
    with dial(stage) as ws:
        ws.close(code, "why")
        assert ws.close_code == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_nobody_may_send(stage: Any, code: int) -> None:
    assert not fails(stage, frame(CLOSE, struct.pack(">H", code)), 1002)
    with dial(stage) as ws:
        ws.send(f"close {code}")  # nor the program
        if code:
            assert ws.recv(10) == "refused"


@pytest.mark.parametrize("code", [1000, 1003, 1008, 1011, 3000, 4999])
def test_codes_of_the_program(stage: Any, code: int) -> None:
    with dial(stage) as ws:
        ws.send(f"close {code}")
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
        assert ws.close_code == code


def test_a_close_without_a_code_and_with_a_long_reason(stage: Any) -> None:
    with by_hand(stage) as sock:
        sock.sendall(frame(CLOSE))
        assert received(sock) == [(CLOSE, b"")]
    reason = ("ä" * 61).encode()
    with by_hand(stage) as sock:
        sock.sendall(frame(CLOSE, b"\x03\xe8" + reason))
        assert received(sock)[0][1][:2] == b"\x03\xe8"


def test_a_reason_that_is_not_utf8(stage: Any) -> None:
    assert not fails(stage, frame(CLOSE, b"\x03\xe8\xce\xba\xed\xa0\x80"), 1007)


def test_nothing_after_a_close_is_heard(stage: Any) -> None:
    before = stage.log().count("disconnect 1000")
    assert talk(stage, frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late") + frame(PING, b"late")) == [BYE]
    stage.until(lambda: stage.log().count("disconnect 1000") > before)


def test_a_client_that_sends_no_more_is_gone(stage: Any) -> None:
    """TCP's half-close is no Close frame: there is nobody to speak to."""
    before = stage.log().count("disconnect 1006")
    with by_hand(stage) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert received(sock) == []
    stage.until(lambda: stage.log().count("disconnect 1006") > before)


def test_a_client_that_never_answers_a_close(stage: Any) -> None:
    with by_hand(stage) as sock:
        sock.sendall(frame(TEXT, b"close"))
        assert received(sock) == [(CLOSE, struct.pack(">H", 4001) + b"as asked")]


# 10, 12: what it costs, and compression, which is not offered


def test_a_flood_of_pings_from_a_client_that_does_not_read(stage: Any) -> None:
    """RFC 6455 5.5.3: the latest is answered; what was never sent is not kept."""
    pid = stage.instances[0].pid

    def resident() -> int:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    before = resident()
    with by_hand(stage) as sock:
        sock.settimeout(0.5)
        pings = frame(PING, bytes(125)) * 2000
        with contextlib.suppress(TimeoutError):
            for _ in range(60):
                sock.sendall(pings)
        assert resident() - before < 24 << 20
    assert stage.ask("/")[0] == 200


def test_compression_is_not_offered_and_not_missed(stage: Any) -> None:
    with dial(stage, compression="deflate") as ws:
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        ws.send("a" * 1000)
        assert ws.recv(10) == "a" * 1000


def test_the_librarys_opcodes_are_the_ones_used_here() -> None:
    assert list(Opcode) == [CONT, TEXT, BINARY, CLOSE, PING, PONG]
