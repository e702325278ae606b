"""Random bytes from clients and tenants: whatever they are, others are served and no descriptor stays."""

from __future__ import annotations

import contextlib
import os
import random
import socket

from fildes.wire import conveyor

SEED = 20260


def mutated(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 1:
                del out[at : at + rng.randrange(1, 9)]
            case 2:
                out[at:at] = rng.choice([b"\r\n", b"\n", b"\0", b" ", b":", b"\r\n\r\n", b"%", b"Host: b.test\r\n"])
            case _:
                out = out[:at]
    return bytes(out)


def test_clients(door, static, kit):
    rng = random.Random(SEED)
    requests = [
        kit.get("a.test", "/a?b=c", extra="Cookie: x=y\r\nAccept: */*\r\n"),
        kit.get("s.test", "/docs/../style.css", extra='Range: bytes=1-2\r\nIf-None-Match: W/"x"\r\n'),
        kit.get("s.test", "/%2e%2e/%c3%a4", "POST", "Transfer-Encoding: chunked\r\n") + b"3\r\nabc\r\n0\r\n\r\n",
    ]
    instance = door.instance("aaaa")

    def settled(stage, before):
        while instance.waits():
            for connection, held in instance.receive():
                instance.begin(connection.serial)
                held.close()
        return stage.fd_count() <= before

    for stage in (door, static):
        before = stage.fd_count() + 2  # a conveyor, a pack
        for _ in range(150):
            with stage.connect() as sock, contextlib.suppress(OSError):
                sock.sendall(mutated(rng, rng.choice(requests)) or b"x")
                sock.shutdown(socket.SHUT_WR)
                if stage is static:
                    kit.read_all(sock)
            settled(stage, before)
        kit.until(lambda before=before, stage=stage: settled(stage, before))
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        instance.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    with static.connect() as client:
        client.sendall(kit.get("s.test", "/style.css", extra="Connection: close\r\n"))
        assert kit.read_all(client).endswith(b"body {}")
    instance.close()


def test_tenants(door, kit):
    rng = random.Random(SEED)
    a, b = door.instance("aaaa"), door.instance("bbbb")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        connection, sock = a.one()
        good = [
            conveyor.encode_taken([connection.serial, 1, 2]),
            conveyor.encode_done([connection.serial]),
            conveyor.encode_back(connection.serial, connection.head),
        ]
        before = door.fd_count()
        null = os.open("/dev/null", os.O_RDONLY)
        for _ in range(400):
            fds = [rng.choice([sock.fileno(), a.sock.fileno(), null])] * rng.randrange(3)
            with contextlib.suppress(BlockingIOError):
                a.say(mutated(rng, rng.choice(good)) if rng.random() < 0.8 else rng.randbytes(40), fds)
            while a.waits():
                for _, held in a.receive():
                    held.close()
            if rng.random() < 0.2:  # so that a dropped conveyor is fetched again
                with door.connect() as again:
                    again.sendall(kit.get("a.test"))
        os.close(null)
        sock.close()
    with door.connect() as client:
        client.sendall(kit.get("b.test"))
        b.serve_one()
        assert kit.read_all(client).endswith(b"hello")
    a.close()
    b.close()
    kit.until(lambda: door.fd_count() <= before + 80)
